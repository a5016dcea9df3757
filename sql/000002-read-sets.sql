-- What compiles read, so that a change queues exactly the compiles that it can affect (P6).
--
-- An input is one thing of a code version that a compile looked at, as text: "file modules/ntp/templates/ntp.conf.erb",
-- "kind data/nodes/a.example.yaml", "data data/common.yaml ntp::servers" (src/compile/inputs.ts has them all). No values are
-- kept: a row of `compiled` says that its catalog holds under that row's code version, so what an input was is known from the
-- code version, and the difference of two code versions says which inputs changed.

-- Inputs that lie together (a module, a directory of data), as one compile read them. Equal parts are stored once, whichever
-- nodes and code versions they come from: nodes of one role differ in a few small parts.
create table read_part (
  id      bigint generated always as identity primary key,
  hash    text not null unique,
  inputs  text[] not null
);

-- The index that a deploy asks: which parts hold an input.
create table read_input (
  input  text not null,
  part   bigint not null references read_part,
  primary key (input, part)
);
create index read_input_by_part on read_input (part);
-- Patterns must be held against changed names one by one; there are few of them.
create index read_input_glob on read_input (input, part) where starts_with(input, 'glob ');

create table read_set (
  id    bigint generated always as identity primary key,
  hash  text not null unique,
  data  json not null                        -- paths of facts, trusted and server facts that were read: [["facts","os","family"], …]
);

create table read_set_part (
  part      bigint not null references read_part,
  read_set  bigint not null references read_set,
  primary key (part, read_set)
);
create index read_set_part_by_read_set on read_set_part (read_set);

alter table compile
  add column read_set     bigint references read_set,   -- null: not known, so every change may affect it
  add column base         text,                         -- of Puppet, Ruby, tracer and settings (src/compile/base.ts)
  add column outside      json,                         -- things outside the code version as they were: {"file /etc/x": digest, …}
  add column volatile     json not null default '[]';   -- why it is compiled again on every trigger: [{reason, file, line}, …]
create index compile_by_read_set on compile (read_set);

-- A row says: under this code version, with these facts and certificate extensions, the node's catalog is this one, and that
-- compile proved it. The compile may be of another code version, or of other facts, that differ from these in nothing it read.
alter table compiled
  add column facts        text,
  add column extensions   text,                         -- node.trusted_extensions as text
  add column enc_hash     text,
  add column read_set     bigint references read_set,   -- this and the next: as in its compile, for the index
  add column data_digest  text,                         -- of the values at the paths of read_set.data
  add column volatile     boolean not null default true;
create index compiled_by_read_set on compiled (read_set, code_version, environment);
create index compiled_volatile on compiled (environment, code_version) where volatile;

-- The hash of the catalog without the places in code (file, line): what a node does is the same.
alter table catalog add column semantic text;

alter table environment
  add column recompile_minutes  integer not null default 30 check (recompile_minutes > 0),   -- volatile catalogs, at least this often
  add column audit_share        real not null default 0.01 check (audit_share between 0 and 1); -- of skipped compiles, compiled all the same

-- Data files of code versions by their content: the digest of each root key's value, so that an edit of one key is told from
-- one of another. Null: the file has no such keys (it does not parse, or is no hash): it counts as a whole.
create table data_file (
  hash  text not null,
  kind  text not null check (kind in ('yaml', 'json')),
  keys  json,
  primary key (hash, kind)
);

-- Compiles that were skipped and compiled all the same, at random: a difference is an unsound skip, and an alarm.
create table skip_audit (
  id            bigint generated always as identity primary key,
  at            timestamptz not null default now(),
  certname      text not null references node,
  environment   text not null,
  code_version  text not null,
  expected      text not null,                -- the catalog that the skip stood for
  found         text                          -- null: it did not compile
);
create index skip_audit_wrong on skip_audit (at) where found is distinct from expected;
