/** Every limit in one place, each with its reason. A setting may lower or raise some; none may be absent. */

const KiB = 1024;
const MiB = 1024 * KiB;

/** Real nodes send 12 to 200 KB of facts; Facter's own soft limit for a payload is 16 MB. */
export const FACTS_BYTES_MAX = 16 * MiB;
/** Facts at the top of a document; Facter itself warns above 512, or 10,240 with all that is nested. */
export const FACT_NAMES_MAX = 10_240;
/** A fact's name; Facter's own soft limit. */
export const FACT_NAME_BYTES_MAX = 2560;
/** Renewals of unchanged facts stored by one statement; larger ones bring no more throughput and hold locks longer. */
export const RENEWALS_BATCH_MAX = 500;
/** Renewals that wait for a batch: some seconds of a whole fleet. Beyond, nodes are told to come again. */
export const RENEWALS_WAITING_MAX = 20_000;
/** Facts documents stored by one transaction, by number and by size; a single one may be larger. */
export const FACTS_BATCH_MAX = 64;
export const FACTS_BATCH_BYTES_MAX = 4 * MiB;
/** Facts documents that wait for a batch, by number and by size: some seconds of a fleet that was re-imaged. */
export const FACTS_WAITING_MAX = 5_000;
export const FACTS_WAITING_BYTES_MAX = 256 * MiB;
/** Batches of each kind under way at once: while one waits for the disk, the next is worked on. */
export const FACTS_BATCHES_AT_ONCE_MAX = 2;
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
/** Small content kept in memory by a server, and the largest piece that counts as small: a served piece of TLS-sized work. */
export const CONTENT_MEMORY_BYTES_MAX = 64 * MiB;
export const CONTENT_MEMORY_ITEM_BYTES_MAX = 256 * KiB;
/** Files whose check is remembered; some 250 bytes each. A forgotten one is only checked again. */
export const CONTENT_VERIFIED_MAX = 200_000;
/** Remembered answers to "may this node read this content?"; some 250 bytes each. A forgotten one costs a look-up. */
export const CONTENT_GRANTS_MAX = 200_000;
/** Moves of a node's pointer that count for what it may read. The collector keeps far fewer. */
export const CONTENT_MOVES_READABLE_MAX = 1000;
/** Damaged content is kept this long for whoever looks into it. */
export const CONTENT_QUARANTINE_TIME_MS = 30 * 24 * 3600_000;
/** Content put more recently than this is never collected: its storer may not have written its reference yet. */
export const COLLECT_SPARED_TIME_MS = 3600_000;
/** What the collector removes under one hold of its lock, during which nobody can store a catalog: some 20 ms. */
export const COLLECT_BATCH_MAX = 500;
/** Rows of histories that go in one statement. */
export const COLLECT_ROWS_BATCH_MAX = 2000;
/** Tries of one batch of the collector against rivals. */
export const COLLECT_TRIES_MAX = 10;
/** How long a request for a collection waits for its end before it is told that it goes on. */
export const COLLECT_ANSWER_TIME_MS = 60_000;
/** Moves of each node whose catalogs are kept, so that a rollback finds them. */
export const COLLECT_MOVES_KEPT = 10;
/** Newest deploys of each environment whose code versions are kept. */
export const COLLECT_DEPLOYS_KEPT = 10;
/** How long the history of compiles and facts is kept. */
export const COLLECT_HISTORY_TIME_MS = 30 * 24 * 3600_000;
/** Events that one statement stores, by number and by size: memory of a stream is twice this. */
export const EVENTS_CHUNK_MAX = 500;
export const EVENTS_CHUNK_BYTES_MAX = 1 * MiB;
/** Run events are kept this many days, unless a setting says otherwise. */
export const RUN_EVENTS_KEPT_DAYS = 30;
/** Day partitions that exist ahead, so that housekeeping may fail for days before events go to the default partition. */
export const PARTITION_DAYS_AHEAD = 3;
/** Runs of which new events wait to be read for watchers; beyond, watchers are cut and look anew. */
export const WATCH_RUNS_WAITING_MAX = 10_000;
/** Runs read for watchers at once. */
export const WATCH_READS_AT_ONCE_MAX = 4;
/** Any other JSON body of the API. */
export const BODY_BYTES_MAX = 1 * MiB;
/** A catalog's canonical form; the largest seen in the field are some 50 MB. */
export const CATALOG_BYTES_MAX = 128 * MiB;
/** How long one compile may take; a 2,500-resource catalog takes some 2 s of CPU. */
export const COMPILE_TIME_MAX_MS = 120_000;
/** Memory of one compile's process; an OpenStack controller needs some 300 MiB. */
export const COMPILE_MEMORY_MAX_BYTES = 1024 * MiB;
/** Keys of one kind in what a compile read; the largest catalogs seen have some 10,000. Of more it counts as unknown. */
export const READS_MAX = 200_000;
/** Interpreters of code versions kept warm; each is some 100 MiB, a third to a half of it shared with its parent. */
export const INTERPRETERS_MAX = 8;
/** Nodes of which the pool remembers what their compiles load, and sets of files that it knows them by. */
export const LOADS_NODES_MAX = 100_000;
export const LOADS_SETS_MAX = 1000;
/** An interpreter that nobody used for so long is ended: its code version is an old one. */
export const INTERPRETER_IDLE_MAX_MS = 15 * 60_000;
/** What an ENC may print, and how long it may take. */
export const ENC_BYTES_MAX = 1 * MiB;
export const ENC_TIME_MAX_MS = 20_000;
/** A deploy's log is kept up to this; the rest is cut, and says so. */
export const DEPLOY_LOG_BYTES_MAX = 256 * KiB;
/** A deploy: clone, Puppetfile, hashing. Forge modules over a slow line take minutes. */
export const DEPLOY_TIME_MAX_MS = 15 * 60_000;
/** Deploys at once, of different environments. They wait for git and for module servers more than they work. */
export const DEPLOYS_AT_ONCE_MAX = 4;
/** A deploy that runs looks this often whether a newer one of its environment was asked for. */
export const DEPLOY_LOOK_MS = 500;
/** Code sources; each poll and each hook looks at all of them. */
export const CODE_SOURCES_MAX = 1000;
/** Branches of a repository that a sync looks at. */
export const BRANCHES_MAX = 5_000;
/** git must say by then where the branches of a repository are. */
export const GIT_LIST_TIME_MAX_MS = 60_000;
/** Code sources that are synced at once: they wait for git servers. */
export const SYNCS_AT_ONCE_MAX = 4;
/** A hook's body is hashed while it comes and not kept. GitHub sends no more than this. */
export const HOOK_BODY_BYTES_MAX = 25 * MiB;
/** Hooks that are checked at once: strangers must not take all the database's connections. */
export const HOOKS_AT_ONCE_MAX = 32;
/** Secrets that one hook's body is checked against: sources that could name the environment so. */
export const HOOK_SECRETS_MAX = 4;
/** Deliveries of hooks that are remembered, and how long: one that is sent again in this time is no work. */
export const HOOK_DELIVERIES_MAX = 10_000;
export const HOOK_DELIVERY_TIME_MS = 10 * 60_000;
/** Programs of an ENC that run at once, beside those of compiles. */
export const ENC_AT_ONCE_MAX = 4;
/** Nodes whose ENC is asked before the next are looked for; somebody's wish to ask waits no longer than for these. */
export const ENC_BATCH_MAX = 50;
/** Rows of one page of a list. */
export const PAGE_ROWS_MAX = 1000;
export const PAGE_ROWS_DEFAULT = 100;
/** Open SSE streams of one process: wake-ups of nodes and watchers together. */
export const STREAMS_MAX = 20_000;
/** A node's spool of events that were not delivered yet; the oldest runs go first when it is full. */
export const SPOOL_BYTES_MAX = 256 * MiB;
/** How long a graceful stop may take before what is left is ended. */
export const STOP_TIME_MAX_MS = 10_000;

/** Files, links and directories of one code version; OpenStack's whole set of modules has some 15,000. */
export const TREE_ENTRIES_MAX = 200_000;
/** A path inside a code version: it must still fit below a directory of ours (Linux: 4096), and in a manifest read by people. */
export const TREE_PATH_BYTES_MAX = 1024;
/** What git may list of a repository: 200,000 files of long names. */
export const GIT_OUTPUT_BYTES_MAX = 256 * MiB;
/** Files up to this are hashed and stored from memory while deploying; larger ones are streamed twice. */
export const DEPLOY_FILE_IN_MEMORY_BYTES_MAX = 4 * MiB;
/** Files read or written at once by a deploy or when a code directory is made. */
export const DEPLOY_FILES_AT_ONCE_MAX = 16;
/** Repositories of modules that one deploy fetches at once. */
export const MODULE_FETCHES_AT_ONCE_MAX = 8;
/** r10k or g10k runs at once, each with a module cache of its own; later ones wait. */
export const MODULE_CACHES_MAX = 4;
/** A stream whose reader takes so long that this much waits for it is cut off. */
export const STREAM_BUFFER_BYTES_MAX = 1 * MiB;
/** A silent stream says a comment this often, so that proxies and both ends know that it lives. */
export const STREAM_HEARTBEAT_MS = 15_000;
/** Bodies being read into memory by one process, together; more are told to come back. A herd of 2,000 nodes sends some 60 MB. */
export const BODIES_MEMORY_BYTES_MAX = 512 * MiB;
/** No byte of a body for this long: the request is answered 408. */
export const BODY_STALL_MAX_MS = 20_000;
/** A body that is read into memory must have come whole by then, however slowly its bytes drip. */
export const BODY_TIME_MAX_MS = 120_000;
/** What is still read, and how long, of a body that was refused, so that its sender sees the refusal and not a broken pipe. */
export const BODY_DRAIN_BYTES_MAX = 4 * MiB;
export const BODY_DRAIN_MAX_MS = 5_000;
/** A request's headers: bytes, and how long they may take to come. */
export const HEADER_BYTES_MAX = 16 * KiB;
export const HEADER_TIME_MAX_MS = 20_000;
/** An idle connection is kept this long; Puppet's agent needs more than its own 4 s. */
export const KEEP_ALIVE_MS = 75_000;
/** A connection on which nothing moves in either direction in the middle of a request. */
export const CONNECTION_STALL_MAX_MS = 120_000;
/** How long an operator's token is believed without asking the database again: how late a revocation may be noticed. */
export const TOKEN_CACHE_MS = 1_000;
/** Tokens remembered, good and bad ones together. */
export const TOKEN_CACHE_MAX = 10_000;
/** Look-ups of unknown tokens at a time: strangers who make tokens up must not take all the database's connections. */
export const TOKEN_LOOKUPS_MAX = 32;
/** Certificates whose identity is remembered between connections. */
export const CERTIFICATE_CACHE_MAX = 20_000;
/** A path parameter: a certname has 253 characters at most, and percent-encoding may triple them. */
export const PATH_PARAMETER_MAX = 800;

/** A wish that a node run now is forgotten after this: a node that comes back next day does not act on it. */
export const RUN_REQUEST_TIME_MAX_MS = 3600_000;
/** Nodes named in one release, rollback or run request; more are reached by naming all. */
export const NODES_NAMED_MAX = 1000;
/** Certnames in one notification: PostgreSQL allows 8000 bytes, a certname has 253 at most, mostly some 30. */
export const NODES_NOTIFIED_MAX = 50;
/** Pointers of nodes kept in memory, some 1 KB each. A forgotten one costs a look-up. */
export const POINTERS_CACHED_MAX = 50_000;
/** A pointer in memory is read anew after this, should a notification ever be lost unseen. */
export const POINTER_CACHED_TIME_MAX_MS = 5 * 60_000;
/** Pointers looked up by one statement. */
export const POINTERS_READ_AT_ONCE_MAX = 500;
/** Catalogs kept in memory as gzip, in clear: a fleet of 10,000 nodes shares few. */
export const CATALOGS_CACHED_BYTES_MAX = 64 * MiB;
/** How often a transaction that met a deadlock is tried in all. */
export const TRANSACTION_ATTEMPTS_MAX = 4;
/** What `/readyz` asks must answer by then. */
export const READY_CHECK_MAX_MS = 2_000;
/** A run's own share of the spool: past it only changes, failures and the end are written. */
export const RUN_EVENTS_BYTES_MAX = 64 * MiB;
/** What a complete run keeps when the spool is full: its start, its end, and the changes and failures that fit in here. */
export const SHRUNK_RUN_BYTES_MAX = 64 * KiB;
/** One POST of run events from a node. Far below EVENTS_BODY_BYTES_MAX, so that a slow line acknowledges often. */
export const EVENTS_BATCH_BYTES_MAX = 1 * MiB;
/** How long the first waiting event of a run waits for others to travel with it. */
export const EVENTS_FLUSH_MS = 25;
/** With the control plane away, spooled events are on the disk for sure at least this often. */
export const SPOOL_SYNC_MS = 1_000;
/** Content that a node fetches at a time. */
export const NODE_FETCHES_MAX = 8;
/** A collection of facts; a site's custom facts may ask slow services. */
export const FACTS_COLLECT_MAX_MS = 300_000;
/** Unchanged facts are sent whole once in this time, so that the volatile ones do not grow older than that. */
export const FACTS_WHOLE_MAX_MS = 24 * 3600_000;
/** The Ruby runner loads Puppet in some 2 s of CPU; on a machine that is ten times overcommitted that was seen to take 150 s. */
export const RUNNER_START_MAX_MS = 600_000;
/** One line of the runner's protocol. */
export const RUNNER_LINE_BYTES_MAX = 1 * MiB;
/** On a stop of the node daemon: how long a run may go on to its end, and then, for the resource it is working on. */
export const RUN_FINISH_MAX_MS = 60_000;
export const RUN_HALT_MAX_MS = 15_000;
/** An answer of the control plane to a node, without its body; and how long a body may stand still. */
export const NODE_REQUEST_MAX_MS = 30_000;
/** A wake-up stream that says nothing, not even its heartbeat of 15 s, is taken for dead. */
export const WAKEUPS_SILENCE_MAX_MS = 45_000;
/** Longest wait between two tries to reach the control plane. */
export const NODE_BACKOFF_MAX_MS = 60_000;
/** A text that is compared line by line; of larger ones only size and hash are told. */
export const DIFF_TEXT_BYTES_MAX = 256 * KiB;
/** Pieces of content read for one comparison; a module with more changed files is better looked at with git. */
export const DIFF_CONTENTS_MAX = 1000;
/** Bytes of content read for one comparison. */
export const DIFF_CONTENT_BYTES_MAX = 32 * MiB;
/** Time spent on line by line comparison of one pair of catalogs, during which the process does nothing else. */
export const DIFF_TIME_MAX_MS = 500;
/** A data file whose keys are told apart; a larger one counts as a whole. */
export const DATA_FILE_BYTES_MAX = 4 * MiB;
/** The look at the keys of all changed data files of one deploy. */
export const DATA_KEYS_TIME_MAX_MS = 20_000;
/** Earlier code versions that a new one is compared with, each some milliseconds for 1,000 files; nodes of others are compiled. */
export const BASES_COMPARED_MAX = 20;
/** Nodes that are carried over or queued by one statement. */
export const AFFECTED_BATCH_MAX = 5_000;
/** Ruby writes catalogs nested no deeper. */
export const CATALOG_DEPTH_MAX = 500;
/** An uploaded working tree, packed by git: every file of the control repo once. Modules belong in the Puppetfile. */
export const TRIAL_BYTES_MAX = 256 * MiB;
/** Trials of one environment that wait to be made; each keeps its upload on disk until then. */
export const TRIALS_WAITING_MAX = 20;
/** How long the code version of a trial is kept. */
export const TRIAL_TIME_MS = 24 * 3600_000;
/** Plans that one process makes at once: each reads the catalogs of a whole environment. */
export const PLANS_AT_ONCE_MAX = 4;
/** How long a plan waits for compiles, at most and unless it is told otherwise; then it goes on with what there is. */
export const PLAN_WAIT_MAX_MS = 4 * 3600_000;
export const PLAN_WAIT_MS = 1800_000;
/** A waiting plan looks at the queue this often, and no more often than the second when compiles end one after another. */
export const PLAN_POLL_MS = 2_000;
export const PLAN_LOOK_MIN_MS = 500;
/** Nodes looked up by one statement of a plan. */
export const PLAN_PAGE_NODES = 200;
/** What the changes of a plan take together as JSON; of further different changes only the nodes and numbers are told. */
export const PLAN_CHANGES_BYTES_MAX = 64 * MiB;
/** Conditions that choose the nodes of a plan. */
export const PLAN_CONDITIONS_MAX = 20;
/** A comment of a pull request at GitHub has this many characters at most. */
export const COMMENT_CHARACTERS_MAX = 65_536;
/** Catalogs of a node's past in one answer: each is compared with the one before. */
export const PAST_ROWS_MAX = 100;
export const PAST_ROWS_DEFAULT = 20;
/** Installations of Puppetfiles that are remembered, some 100 KB each. */
export const INSTALLED_KEPT_MAX = 200;
