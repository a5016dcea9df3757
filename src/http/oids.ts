/**
 * Puppet's own certificate extensions by their short names, as `trusted.extensions` shows them. From Puppet's
 * `ssl/oids.rb` and the CA's own list, which knows two more under ppAuthCertExt.
 */
const ROOT = '1.3.6.1.4.1.34380.1';

const REGISTERED = [
  'pp_uuid',
  'pp_instance_id',
  'pp_image_name',
  'pp_preshared_key',
  'pp_cost_center',
  'pp_product',
  'pp_project',
  'pp_application',
  'pp_service',
  'pp_employee',
  'pp_created_by',
  'pp_environment',
  'pp_role',
  'pp_software_version',
  'pp_department',
  'pp_cluster',
  'pp_provisioner',
  'pp_region',
  'pp_datacenter',
  'pp_zone',
  'pp_network',
  'pp_securitypolicy',
  'pp_cloudplatform',
  'pp_apptier',
  'pp_hostname',
  'pp_owner',
];

const OID_OF = new Map<string, string>([
  ...REGISTERED.map((name, index): [string, string] => [name, `${ROOT}.1.${index + 1}`]),
  ['pp_authorization', `${ROOT}.3.1`],
  ['pp_auth_auto_renew', `${ROOT}.3.2`],
  ['pp_auth_role', `${ROOT}.3.13`],
  ['pp_cli_auth', `${ROOT}.3.39`],
]);
const NAME_OF = new Map([...OID_OF].map(([name, oid]) => [oid, name]));

/** Whether an extension of a certificate is one of Puppet's: registered (.1), private (.2) or for authorisation (.3). */
export function isPuppetOid(oid: string): boolean {
  return oid.startsWith(`${ROOT}.1.`) || oid.startsWith(`${ROOT}.2.`) || oid.startsWith(`${ROOT}.3.`);
}

/** The name under which `trusted.extensions` shows an extension: its short name, else the dotted OID. */
export function extensionName(oid: string): string {
  return NAME_OF.get(oid) ?? oid;
}

/** The OID that a short name or a dotted OID under Puppet's root means; undefined for anything else. */
export function extensionOid(name: string): string | undefined {
  const oid = OID_OF.get(name) ?? name;
  return isPuppetOid(oid) && /^\d+(\.\d+)+$/.test(oid) ? oid : undefined;
}
