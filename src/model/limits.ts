/** Every limit in one place, each with its reason. A setting may lower or raise some; none may be absent. */

const KiB = 1024;
const MiB = 1024 * KiB;

/** Real nodes send 12 to 200 KB of facts; Facter's own soft limit for a payload is 16 MB. */
export const FACTS_BYTES_MAX = 16 * MiB;
/** JSON nested deeper than this is refused; real facts stay below 12. */
export const JSON_DEPTH_MAX = 100;
/** One request of run events; a node with more sends several. */
export const EVENTS_BODY_BYTES_MAX = 8 * MiB;
/** One event line. A resource's status with its events is some KB; a log line may carry a diff. */
export const EVENT_BYTES_MAX = 1 * MiB;
/** Events of one run. A catalog of 20,000 resources that all change gives some 60,000. */
export const EVENTS_PER_RUN_MAX = 500_000;
/** One piece of content. Larger things belong in a package repository. */
export const CONTENT_BYTES_MAX = 4 * 1024 * MiB;
/** Any other JSON body of the API. */
export const BODY_BYTES_MAX = 1 * MiB;
/** A catalog's canonical form; the largest seen in the field are some 50 MB. */
export const CATALOG_BYTES_MAX = 128 * MiB;
/** How long one compile may take; a 2,500-resource catalog takes some 2 s of CPU. */
export const COMPILE_TIME_MAX_MS = 120_000;
/** Memory of one compile's process; an OpenStack controller needs some 300 MiB. */
export const COMPILE_MEMORY_MAX_BYTES = 1024 * MiB;
/** Interpreters of code versions kept warm; each is some 100 MiB, mostly shared with its parent. */
export const INTERPRETERS_MAX = 8;
/** What an ENC may print, and how long it may take. */
export const ENC_BYTES_MAX = 1 * MiB;
export const ENC_TIME_MAX_MS = 20_000;
/** A deploy's log is kept up to this; the rest is cut, and says so. */
export const DEPLOY_LOG_BYTES_MAX = 256 * KiB;
/** A deploy: clone, Puppetfile, hashing. Forge modules over a slow line take minutes. */
export const DEPLOY_TIME_MAX_MS = 15 * 60_000;
/** Rows of one page of a list. */
export const PAGE_ROWS_MAX = 1000;
export const PAGE_ROWS_DEFAULT = 100;
/** Open SSE streams of one process: wake-ups of nodes and watchers together. */
export const STREAMS_MAX = 20_000;
/** A node's spool of events that were not delivered yet; the oldest runs go first when it is full. */
export const SPOOL_BYTES_MAX = 256 * MiB;
/** How long a graceful stop may take before what is left is ended. */
export const STOP_TIME_MAX_MS = 10_000;
