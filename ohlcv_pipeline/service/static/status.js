// The status page: the server has rendered all of it, this makes it move.

import { start as startMap } from "./heatmap.js";
import { start as startRefresh } from "./refresh.js";
import { start as startTable } from "./table.js";

startTable();
startRefresh();
startMap();
