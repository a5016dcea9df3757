/**
 * The catalogue of expected failures. Each has a stable code, the HTTP status it is answered with, a sentence with the
 * offending value, and a hint for the next step. A retired code is never used again.
 *
 * A sentence may name fields of `detail` in braces. No detail ever holds a secret: what is put there is shown to people.
 */
export const ERRORS = {
  // what a caller said
  CERTNAME_INVALID: [
    400,
    "'{value}' is not a certname",
    'Use lower-case letters, digits, dots, dashes and underscores, 253 characters at most.',
  ],
  ENVIRONMENT_NAME_INVALID: [
    400,
    "'{value}' is not an environment name",
    'Use lower-case letters, digits and underscores.',
  ],
  HASH_INVALID: [400, "'{value}' is not a SHA-256 hash", 'Give 64 lower-case hexadecimal digits.'],
  RUN_ID_INVALID: [400, "'{value}' is not a run id", 'Give a lower-case UUID.'],
  REQUEST_INVALID: [400, '{reason}', 'See the API description for what this call takes.'],
  JSON_INVALID: [400, 'The document is not JSON: {reason} at byte {offset}', 'Send one JSON document in UTF-8.'],
  FACTS_INVALID: [400, 'The facts cannot be taken: {reason}', 'Send the values object that Facter gives.'],
  EVENT_INVALID: [400, 'Line {line} is not a run event: {reason}', 'See docs/formats/run-events-v1.md.'],
  EVENTS_TOO_MANY: [422, 'A run has at most {max} events', 'Drop the rest of this run.'],
  BODY_TOO_LARGE: [413, 'The body is larger than {max} bytes', 'Send less, or raise the limit in the settings.'],
  REQUEST_ABORTED: [400, 'The request ended before its body did', 'Send it again.'],
  BODY_TYPE_UNSUPPORTED: [415, "Content-Type '{value}' is not supported", 'Send application/json.'],
  BODY_STALLED: [408, 'The body stopped coming for {ms} ms', 'Send it again over a better line.'],
  LINE_TOO_LONG: [413, 'Line {line} of the body is longer than {max} bytes', 'Send shorter lines.'],
  ENCODING_UNSUPPORTED: [415, "Content-Encoding '{value}' is not supported", 'Send gzip or no encoding.'],
  ENCODING_BROKEN: [400, 'The body cannot be decompressed: {reason}', 'Send whole gzip data.'],
  // who asks
  IDENTITY_MISSING: [
    401,
    'No valid identity was presented',
    'Use a client certificate of this CA, or an operator token.',
  ],
  ACCESS_DENIED: [403, '{identity} may not {action}', 'Use an identity that may.'],
  HOOK_UNVERIFIED: [
    401,
    'The hook does not show the secret of a code source of this environment',
    'Send X-Hub-Signature-256, X-Gitea-Signature, X-Gitlab-Token or a bearer token, made with the secret of its code source.',
  ],
  EXTENSION_INVALID: [
    400,
    "'{value}' is not a certificate extension",
    'Give NAME=VALUE, with a name such as pp_role or an OID under 1.3.6.1.4.1.34380.1.',
  ],
  // what is not there
  ROUTE_NOT_FOUND: [404, 'There is nothing at {path}', 'See the API description.'],
  NODE_NOT_FOUND: [404, "No node is called '{certname}'", 'List them with: callboard node list'],
  FACTS_NOT_FOUND: [404, "'{certname}' has submitted no facts", 'Is its node daemon running?'],
  ENVIRONMENT_NOT_FOUND: [404, "No environment is called '{environment}'", 'Deploy it with: callboard code deploy'],
  CODE_VERSION_NOT_FOUND: [
    404,
    "No code version of '{environment}' begins with '{value}'",
    'List them with: callboard code list',
  ],
  CODE_VERSION_AMBIGUOUS: [409, "More than one code version begins with '{value}'", 'Give more of its digits.'],
  CATALOG_NOT_FOUND: [404, "No catalog is called '{catalog}'", 'See the ids with: callboard node show'],
  RESOURCE_NOT_FOUND: [
    404,
    "The catalog of '{certname}' has no resource '{resource}'",
    'Write it as in Type[title]; list them with: callboard catalog show',
  ],
  CATALOG_NOT_RELEASED: [404, "No catalog is released to '{certname}'", 'Release one with: callboard release'],
  CANDIDATE_MISSING: [
    404,
    "'{certname}' is not compiled under the newest code of '{environment}' yet",
    'See what it waits for with: callboard node show',
  ],
  CONTENT_NOT_FOUND: [404, "No content is called '{hash}'", 'It was never stored, or has been collected.'],
  CODE_SOURCE_NOT_FOUND: [404, "No code source is called '{source}'", 'List them with: callboard code source list'],
  CODE_SOURCE_MISSING: [
    409,
    "'{environment}' is no branch of a code source",
    'Give --repo, or see which branches there are: callboard code sync',
  ],
  DEPLOY_NOT_FOUND: [404, "No deploy is called '{id}'", 'Start one with: callboard code deploy'],
  CA_NOT_FOUND: [
    404,
    "There is no CA in '{directory}'",
    'It is made when the server first starts: callboard server --state DIR',
  ],
  CERTIFICATE_NOT_FOUND: [404, "The CA signed no certificate for '{certname}'", 'Make one with: callboard cert issue'],
  TOKEN_NOT_FOUND: [404, "No valid token is called '{name}'", 'List them with: callboard operator token list'],
  RUN_NOT_FOUND: [404, "No run is called '{id}'", 'List them with: callboard run list'],
  // what cannot be done now
  FACTS_NEEDED: [428, 'The facts with this hash are not the ones stored', 'Send the whole document.'],
  CONTENT_MISMATCH: [422, 'The bytes hash to {actual}, not to {expected}', 'Send the bytes that the name says.'],
  CONTENT_CORRUPT: [
    500,
    "Stored content '{hash}' is damaged and was put aside",
    'Deploy the code version again to store it anew.',
  ],
  CATALOG_CORRUPT: [
    500,
    "The stored catalog '{catalog}' cannot be read: {reason}",
    'Restore the database and the catalog key that belong together, or deploy the code again to compile it anew.',
  ],
  CODE_DEPLOY_FAILED: [422, '{reason}', 'See the log of the deploy.'],
  TRIAL_INVALID: [400, 'The upload is no bundle of git: {reason}', 'Make it with: callboard plan --local'],
  REPOSITORY_INVALID: [400, "'{value}' is not a git repository: {reason}", 'Give an absolute path or a URL.'],
  CODE_SOURCE_INVALID: [400, 'The code source cannot be so: {reason}', 'See: callboard code source set --help'],
  CODE_SOURCE_UNREACHABLE: [
    422,
    "git could not list the branches of the code source '{source}': {reason}",
    'Is its repository there, and may the server read it?',
  ],
  CODE_SOURCE_SECRET_UNREADABLE: [
    500,
    "The hook secret of the code source '{source}' cannot be read: {reason}",
    'Restore the catalog key that belongs to the database, or set a new one: callboard code source set --new-secret',
  ],
  GIT_REF_INVALID: [400, "'{value}' is not a git reference", 'Give a branch, a tag or a commit.'],
  ENC_FAILED: [422, '{reason}', 'Run the command by hand with the certname as its last argument.'],
  ENC_COMMAND_INVALID: [400, "'{value}' cannot be an ENC command: {reason}", 'Give the absolute path of a program.'],
  COMPILE_FAILED: [422, '{reason}', 'Mend the code or the data and deploy again.'],
  CERTIFICATE_EXISTS: [
    409,
    "A certificate for '{certname}' was issued before",
    'Give --force to issue another; the first stays valid until it is revoked.',
  ],
  NOTHING_TO_RELEASE: [409, '{reason}', 'See: callboard node list'],
  RANGE_INVALID: [416, 'The range lies outside the {size} bytes', 'Ask for a range inside.'],
  BUSY: [503, '{reason}', 'Try again in a moment.'],
  // the program itself
  CA_DAMAGED: [500, "The CA in '{directory}' cannot be used: {reason}", 'Put its files back from a copy.'],
  SETTING_INVALID: [500, "{setting}: '{value}' {reason}", 'See: callboard server --help'],
  STATE_IN_USE: [
    500,
    "Another server (process {pid}) uses the state directory '{state}'",
    'Stop it, or give another --state.',
  ],
  DATABASE_UNREACHABLE: [503, 'The database cannot be reached: {reason}', 'See the log of the server.'],
  DATABASE_TOO_OLD: [500, 'The database is PostgreSQL {found}, {needed} or newer is needed', 'Use a newer PostgreSQL.'],
  DATABASE_START_FAILED: [500, 'PostgreSQL could not be started: {reason}', 'See its log.'],
  DATABASE_TOO_NEW: [500, 'The database has migration {found}, this program knows {known}', 'Use the newer program.'],
  SERVER_UNREACHABLE: [503, '{url} cannot be reached: {reason}', 'Is the server running, and is this its address?'],
  NODE_STATE_IN_USE: [
    500,
    "Another node daemon (process {pid}) uses the state directory '{state}'",
    'Stop it, or give another --state.',
  ],
  NODE_CERTIFICATE_MISSING: [
    500,
    "There is no certificate of '{certname}' in '{ssldir}': {reason}",
    'Make one with: callboard cert issue, and give its directory as --ssldir.',
  ],
  RUNNER_FAILED: [500, 'The Puppet runner failed: {reason}', 'Is Puppet installed? See the log of the node daemon.'],
  CATALOG_UNFIT: [422, 'The catalog {catalog} cannot be used: {reason}', 'The node keeps its present one.'],
  WORKER_FAILED: [500, 'The compile worker failed: {reason}', 'See the log of the server.'],
} as const satisfies Record<string, readonly [status: number, sentence: string, hint: string]>;

export type ErrorCode = keyof typeof ERRORS;
type Detail = Record<string, string | number | boolean | undefined>;

/** An expected failure, with everything its reader needs. Broken invariants throw plain `Error`s instead. */
export class CallboardError extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly hint: string;
  readonly detail: Detail;

  constructor(code: ErrorCode, detail: Detail = {}, options?: { cause?: unknown; hint?: string }) {
    const [status, sentence, hint] = ERRORS[code];
    super(
      sentence.replace(/\{(\w+)\}/g, (_, name: string) => shown(detail[name])),
      options,
    );
    this.name = 'CallboardError';
    this.code = code;
    this.status = status;
    this.hint = options?.hint ?? hint;
    this.detail = detail;
  }

  /** The shape in which every surface of ours tells an error. */
  toJSON(): { code: ErrorCode; message: string; hint: string } {
    return { code: this.code, message: this.message, hint: this.hint };
  }
}

/** Offending values are cut: an error never echoes more than a line. */
function shown(value: Detail[string]): string {
  const text = String(value ?? '');
  return text.length > 500 ? `${text.slice(0, 500)}…` : text;
}
