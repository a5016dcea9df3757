/** The report room's share of the queue. */
import type { Logger } from 'pino';
import { PARTITION_DAYS_AHEAD, RUN_EVENTS_KEPT_DAYS } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import type { JobHandlers } from '../postgres/queue.ts';
import { keepPartitions } from './partitions.ts';

export interface ReportJobsDeps {
  db: Database;
  logger: Logger;
  /** Days that run events are kept. */
  daysKept?: number;
}

/** `housekeeping`: at start and every hour; see partitions.ts. */
export function reportJobs(deps: ReportJobsDeps): JobHandlers {
  return {
    housekeeping: async () => {
      const { make, drop } = await keepPartitions(deps.db, PARTITION_DAYS_AHEAD, deps.daysKept ?? RUN_EVENTS_KEPT_DAYS);
      if (make.length > 0 || drop.length > 0) deps.logger.info({ make, drop }, 'day partitions of run events');
    },
  };
}
