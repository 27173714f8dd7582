// Reads Kubernetes objects as JSON, an array, from standard input, and prints what is wrong with them: a field that its
// kind does not have, a value of another type, a field that is missing. Runs in a folder that has the packages below.
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {pathToFileURL} from 'node:url';

const resolve = name => pathToFileURL(createRequire(process.cwd() + '/').resolve(name)).href;
const client = await import(resolve('@kubernetes/client-node'));

// Fields that the class of `type` does not know, at any depth.
function* unknown(value, type, path) {
  const list = /^Array<(.*)>$/.exec(type), map = /^\{ \[key: string\]: (.*); \}$/.exec(type);
  if (list) {
    for (const [i, item] of value.entries()) yield* unknown(item, list[1], `${path}[${i}]`);
  } else if (map) {
    for (const [key, item] of Object.entries(value)) yield* unknown(item, map[1], `${path}.${key}`);
  } else if (client[type]?.getAttributeTypeMap) {
    const fields = new Map(client[type].getAttributeTypeMap().map(field => [field.baseName, field.type]));
    for (const [key, item] of Object.entries(value)) {
      if (fields.has(key)) yield* unknown(item, fields.get(key), `${path}.${key}`);
      else yield `${path}.${key}: ${type} has no such field`;
    }
  }
}

let problems = 0;
const complain = text => (console.log(text), ++problems);
for (const object of JSON.parse(readFileSync(0))) {
  const [group, version] = object.apiVersion.includes('/') ? object.apiVersion.split('/') : ['', object.apiVersion];
  const name = `${object.kind} ${object.metadata.name}`;
  const type = version[0].toUpperCase() + version.slice(1) + object.kind;
  const custom = !group.endsWith('.k8s.io') && group.includes('.');
  const models = custom ? '@kubernetes-models/prometheus-operator' : 'kubernetes-models';
  if (!custom && !client[type]) complain(`${name}: no kind ${type}`);
  for (const problem of custom ? [] : unknown(object, type, object.kind)) complain(`${name}: ${problem}`);
  const folder = new URL(`node_modules/${models}/${[group, version].filter(Boolean).join('/')}/${object.kind}.js`,
                         pathToFileURL(process.cwd() + '/'));
  try {
    new (await import(folder))[object.kind](object).validate();
  } catch (error) {
    complain(`${name}: ${error.message}`);
  }
}
process.exit(problems ? 1 : 0);
