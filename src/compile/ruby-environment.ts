/** The environment variables of every Ruby process, and no others: what a compile can read of them is the same everywhere. */
export const RUBY_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: process.env.PATH ?? '/usr/bin:/bin',
  HOME: '/nonexistent',
  LANG: 'C.UTF-8',
  LC_ALL: 'C.UTF-8',
};
