-- Trials: code that was not pushed, compiled so that its plan can be looked at. A trial never becomes an environment's newest
-- code, is never released, and is forgotten after a day: while its row stands, the collector keeps its code version.

alter table deploy add column trial boolean not null default false;   -- made from an uploaded working tree

create table trial (
  environment   text not null references environment,
  code_version  text not null references code_version,
  created_at    timestamptz not null default now(),
  expires_at    timestamptz not null,
  primary key (environment, code_version)
);
create index trial_by_code_version on trial (code_version);
create index trial_by_end on trial (expires_at);
