-- The whole loop: environments, code versions, nodes, facts, compiles, catalogs, releases, runs, events.
-- Hashes are lower-case hex SHA-256 in text. Times are timestamptz. Pointers are columns that move; everything else only grows
-- until it is collected.

create table code_version (
  id          text primary key,              -- the hash of its tree manifest, itself a piece of content
  plugins     text not null,                 -- the hash of its plugin tree manifest: lib, facts.d and locales of every module
  file_count  integer not null,
  byte_count  bigint not null,
  created_at  timestamptz not null default now()
);

create table environment (
  name                  text primary key,
  code_policy           text not null default 'held' check (code_policy in ('held', 'auto')),
  facts_policy          text not null default 'auto' check (facts_policy in ('auto', 'held')),
  run_policy            text not null default 'do'   check (run_policy in ('do', 'noop')),
  enc_command           text,                                       -- node_terminus=exec: an absolute path
  code_version          text references code_version,               -- the newest: candidates are compiled from it
  released_code_version text references code_version,               -- what a new node joins at
  created_at            timestamptz not null default now()
);

-- One attempt to make a code version. The newest finished one of an environment sets environment.code_version.
create table deploy (
  id            uuid primary key default gen_random_uuid(),
  environment   text not null references environment,
  repo          text not null,
  ref           text not null,
  commit        text,                                               -- the git commit that ref meant
  code_version  text references code_version,
  state         text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'superseded')),
  error         text,
  log           text not null default '',
  requested_by  text not null,
  created_at    timestamptz not null default now(),
  finished_at   timestamptz
);
create index deploy_by_environment on deploy (environment, created_at desc);

-- A facts document without its volatile values, byte for byte as submitted, stored once however many nodes or times it came.
create table fact_document (
  hash        text primary key,
  document    text not null,
  created_at  timestamptz not null default now()
);

create table node (
  certname               text primary key,
  environment            text not null,                             -- in effect: the ENC's answer, else what the node asked for
  requested_environment  text not null,
  trusted_extensions     json not null default '{}',                -- from the certificate it last showed
  facts                  text references fact_document,
  volatile_facts         text,                                      -- JSON of the volatile values of the last whole submission
  facts_at               timestamptz,                               -- when facts were last submitted, changed or not
  released_catalog       text,                                      -- P5: the only catalog it is served
  released_code_version  text references code_version,
  released_at            timestamptz,
  pinned                 boolean not null default false,            -- nothing but an operator moves a pinned node's pointer
  last_run               uuid,                                      -- the run that started last, and how it stands
  run_status             text check (run_status in ('running', 'unchanged', 'changed', 'failed')),
  created_at             timestamptz not null default now()
) with (fillfactor = 80);                                           -- renewing facts_at stays on the row's page
create index node_by_run_status on node (run_status, certname);
create index node_by_environment on node (environment, certname);
create index node_by_released_catalog on node (released_catalog);
create index node_by_released_code_version on node (released_code_version);
create index node_by_facts on node (facts);

create table fact_history (
  certname    text not null references node,
  at          timestamptz not null default now(),
  facts       text not null references fact_document,
  primary key (certname, at)
);
create index fact_history_by_facts on fact_history (facts);
create index fact_history_by_time on fact_history (at);

-- What the ENC last answered for a node, as it printed it.
create table enc_answer (
  certname  text primary key references node,
  answer    text not null,
  hash      text not null,
  asked_at  timestamptz not null default now()
);

-- A catalog names its node and environment inside, so its id belongs to exactly one of each.
create table catalog (
  id              text primary key,
  certname        text not null references node,
  environment     text not null,
  document        bytea not null,             -- gzip, then AES-256-GCM; see docs/formats/catalog-v1.md
  document_bytes  bigint not null,            -- of the JSON
  resource_count  integer not null,
  created_at      timestamptz not null default now()
);
create index catalog_by_certname on catalog (certname, created_at desc);

alter table node add foreign key (released_catalog) references catalog;

-- Which content a catalog or a plugin tree names: what nodes may read and what the collector keeps.
create table content_reference (
  holder   text not null,                     -- a catalog's id or a plugin tree's hash
  content  text not null,
  primary key (holder, content)
);
create index content_reference_by_content on content_reference (content);

-- Every compile that ended, in order: why it ran and what came of it. History outlives what it names: the catalog and the
-- code version may have been collected.
create table compile (
  id            uuid primary key default gen_random_uuid(),
  certname      text not null references node,
  environment   text not null,
  code_version  text not null,
  trigger       text not null,                -- a sentence: "facts changed", "code version 1a2b deployed", …
  facts         text references fact_document,
  enc_hash      text,
  catalog       text,                         -- null: it failed
  error         json,                         -- {message, file, line}: Puppet's own words
  warnings      json not null default '[]',
  started_at    timestamptz not null,
  finished_at   timestamptz not null default now(),
  cpu_ms        integer,
  check ((catalog is null) = (error is not null))
);
create index compile_by_certname on compile (certname, finished_at desc);
create index compile_by_end on compile (finished_at);
create index compile_by_facts on compile (facts);

-- The last compile of a node under a code version: where candidates are looked up.
create table compiled (
  certname      text not null references node,
  environment   text not null,
  code_version  text not null references code_version,
  compile       uuid not null references compile,
  catalog       text references catalog,      -- null: the last compile failed
  primary key (certname, environment, code_version)
);
create index compiled_by_code_version on compiled (code_version, environment);
create index compiled_by_compile on compiled (compile);
create index compiled_by_catalog on compiled (catalog);

-- A decision that nodes shall run a code version (or, pinned, an exact catalog).
create table release (
  id            uuid primary key default gen_random_uuid(),
  kind          text not null check (kind in ('release', 'rollback', 'pin', 'unpin')),
  environment   text not null,
  code_version  text,                          -- may have been collected since
  requested_by  text not null,
  created_at    timestamptz not null default now()
);

-- Every move of a node's pointer. `release` is null where a policy moved it. What the latest moves name is kept, so that a
-- rollback finds it; what earlier ones name may have been collected.
create table pointer_move (
  id                     bigint generated always as identity primary key,
  certname               text not null references node,
  cause                  text not null check (cause in ('release', 'rollback', 'pin', 'unpin', 'facts', 'code', 'join')),
  release                uuid references release,
  previous_catalog       text,
  previous_code_version  text,
  catalog                text not null,
  code_version           text not null,
  moved_at               timestamptz not null default now()
);
create index pointer_move_by_certname on pointer_move (certname, id desc);

-- An operator's wish that a node run now. The node sees it when it looks for a catalog; a wake-up only makes it look sooner.
create table run_request (
  id            uuid primary key default gen_random_uuid(),
  certname      text not null references node,
  mode          text not null check (mode in ('noop', 'do', 'policy')),
  requested_by  text not null,
  requested_at  timestamptz not null default now(),
  run           uuid                           -- the run that took it up
);
create index run_request_open on run_request (certname, requested_at) where run is null;

create table run (
  id             uuid primary key,
  certname       text not null references node,
  day            date not null,                -- the partition that holds its events
  catalog        text,
  code_version   text,
  noop           boolean not null default false,
  request        uuid,
  state          text not null default 'running' check (state in ('running', 'finished')),
  status         text check (status in ('unchanged', 'changed', 'failed')),
  started_at     timestamptz not null,
  finished_at    timestamptz,
  last_sequence  bigint not null default 0,    -- every event up to and including this one is stored
  event_count    integer not null default 0,   -- stored events, those beyond a gap included
  summary        json                          -- {resources, changed, failed, skipped, corrective, noop, exit_code}
);
create index run_by_certname on run (certname, started_at desc, id desc);
create index run_by_start on run (started_at desc, id desc);
create index run_failed on run (started_at desc, id desc) where status = 'failed';
create index run_running on run (started_at desc, id desc) where state = 'running';
create index run_by_day on run (day);

create table run_event (
  day          date not null,
  run          uuid not null,
  sequence     bigint not null,                -- given by the node, from 1
  at           timestamptz not null,           -- the node's clock
  received_at  timestamptz not null default now(),
  kind         text not null check (kind in ('start', 'resource', 'log', 'end')),
  data         json not null,
  primary key (day, run, sequence)
) partition by range (day);
-- Rows of a day whose partition was not made yet; housekeeping makes partitions ahead.
create table run_event_default partition of run_event default;

create table operator_token (
  id          uuid primary key default gen_random_uuid(),
  name        text not null,
  role        text not null check (role in ('viewer', 'deployer', 'admin')),
  token_hash  text not null unique,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz not null,
  revoked_at  timestamptz
);

-- Append only: who asked for a change, and what became of it.
create table audit (
  id        bigint generated always as identity primary key,
  at        timestamptz not null default now(),
  operator  text not null,
  action    text not null,                     -- method and route
  target    text not null,                     -- the path
  address   text not null,
  status    integer not null
);
create index audit_by_time on audit (at desc);

-- A running process of the control plane. It holds a session advisory lock on `lock_key` as long as it lives, so that
-- jobs of a dead process are found and given to others (see src/postgres/queue.ts).
create table process (
  id          text primary key,
  lock_key    bigint not null,
  host        text not null,
  pid         integer not null,
  services    text[] not null,
  started_at  timestamptz not null default now()
);
