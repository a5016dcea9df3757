-- Where code comes from by itself: control repos whose branches are environments, and what was last seen of each branch.

create table code_source (
  name          text primary key,
  repo          text not null,
  branches      text not null,                 -- globs, separated by spaces: which branches are environments
  environment   text not null,                 -- how a branch names its environment: a pattern with {branch}
  secret        bytea,                         -- what its hooks are signed with, sealed as catalogs are; null: hooks are refused
  poll_minutes  integer not null,              -- git is asked this often without a hook; 0: never
  created_at    timestamptz not null default now(),
  synced_at     timestamptz,                   -- when the last sync that ended began to ask git
  error         text,                          -- why it failed
  left_out      json not null default '[]'     -- [{branch, reason}]: branches that match and are no environment
);

-- A branch of a code source and the environment it is. An environment belongs to one branch of one source.
create table code_branch (
  environment  text primary key references environment,
  source       text not null references code_source on delete cascade,
  branch       text not null,
  commit       text not null,                  -- what the branch meant when a deploy of it was last asked for
  vanished_at  timestamptz                     -- git has it no more; the environment stays as it is
);
create index code_branch_by_source on code_branch (source);

-- Truth outside git: an ENC is asked again after this many minutes; 0: only when a node is compiled, or somebody asks.
alter table environment
  add column enc_interval_minutes integer not null default 30 check (enc_interval_minutes >= 0);
-- A row is there for whoever was asked about, or is to be: its answer is null where none ever came.
alter table enc_answer
  alter column answer drop not null,
  alter column hash drop not null,
  add column wanted_at timestamptz;            -- somebody wants it asked; done when asked_at is later
create index enc_answer_wanted on enc_answer (wanted_at) where wanted_at > asked_at;
create index enc_answer_by_time on enc_answer (asked_at);
