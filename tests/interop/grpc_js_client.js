// Makes every call of MemoryService and AdminService with @grpc/grpc-js, checks the answers, and prints the names of the
// methods it called, a line each.
//
// usage: node grpc_js_client.js ADDRESS PROTO_FOLDER
'use strict';

const assert = require('node:assert');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, protoFolder] = process.argv.slice(2);
const definition = loader.loadSync(
  ['mnemosyne/v1/memory_service.proto', 'mnemosyne/v1/admin_service.proto'],
  {includeDirs: [protoFolder], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true});
const {MemoryService, AdminService} = grpc.loadPackageDefinition(definition).mnemosyne.v1;
const memory = new MemoryService(address, grpc.credentials.createInsecure());
const admin = new AdminService(address, grpc.credentials.createInsecure());
const called = new Set();

function unary(client, method, request) {
  called.add(method);
  return new Promise((resolve, reject) =>
    client[method](request, (error, response) => (error ? reject(error) : resolve(response))));
}

function all(call) {  // what a stream of the server's brings
  return new Promise((resolve, reject) => {
    const responses = [];
    call.on('data', (response) => responses.push(response));
    call.on('error', reject);
    call.on('end', () => resolve(responses));
  });
}

function streamed(method, request) {
  called.add(method);
  return all(memory[method](request));
}

async function query(session, text) {
  const responses = await streamed('Query', {session_id: session, text, max_tokens: 32});
  const summary = responses.at(-1).summary;
  assert.ok(summary, 'the last message is the summary');
  return {answer: responses.slice(0, -1).map((response) => response.delta.text).join(''), summary};
}

async function main() {
  const {models} = await unary(memory, 'ListModels', {});
  assert.strictEqual(models[0].name, 'text');
  assert.strictEqual(models[0].tokenizer, 'TOKENIZER_KIND_BYTES');

  const {session} = await unary(memory, 'CreateSession',
    {session_id: 'js', labels: {by: 'js'}, settings: {ttl: {seconds: 3600}}});
  assert.strictEqual(session.settings.ttl.seconds, '3600');
  assert.strictEqual(session.next_sequence, '1');

  // Waits for each answer before it goes on, which a call with one direction at a time could not.
  called.add('Stream');
  const stream = memory.Stream();
  const answers = stream[Symbol.asyncIterator]();
  const next = async () => (await answers.next()).value;
  stream.write({open: {session_id: 'js'}});
  const {opened} = await next();
  assert.strictEqual(opened.created, false);
  const fact = 'The special magic number for lively-panda is 1234567. ';
  stream.write({append: {sequence: opened.session.next_sequence, text: Buffer.from(fact)}});
  stream.write({append: {sequence: 2, token_ids: {ids: [...Buffer.from(fact)]}}});
  stream.write({append: {sequence: 2, text: Buffer.from('what was accepted is not applied again')}});
  stream.write({flush: {}});
  let ack;
  do {
    ({ack} = await next());
  } while (!ack.flushed);
  assert.strictEqual(ack.durable_sequence, '2');
  assert.strictEqual(ack.watermarks.durable, String(2 * fact.length));
  assert.ok(Number(ack.watermarks.memorized) > 0);
  stream.end();
  assert.strictEqual(await next(), undefined);

  const question = 'What is the special magic number for lively-panda?';
  const {answer, summary} = await query('js', question);
  assert.match(answer, /1234567/);
  assert.strictEqual(summary.stop_reason, 'STOP_REASON_END_OF_ANSWER');
  assert.strictEqual(summary.as_of_offset, String(2 * fact.length));

  const now = await unary(memory, 'GetSession', {session_id: 'js'});
  assert.strictEqual(now.session.watermarks.accepted_bytes, String(5 * fact.length));
  assert.deepStrictEqual(
    (await unary(memory, 'ListSessions', {page_size: 10, labels: {by: 'js'}})).sessions.map((one) => one.session_id), ['js']);
  const updated = await unary(memory, 'UpdateSession',
    {session_id: 'js', update_mask: {paths: ['labels', 'settings.retention']}, labels: {by: 'node'},
     settings: {retention: 'RETENTION_KEEP'}});
  assert.deepStrictEqual(updated.session.labels, {by: 'node'});
  assert.strictEqual(updated.session.settings.retention, 'RETENTION_KEEP');

  const parts = await streamed('ExportSession', {session_id: 'js'});
  called.add('ImportSession');
  const imported = await new Promise((resolve, reject) => {
    const call = memory.ImportSession((error, response) => (error ? reject(error) : resolve(response)));
    parts.forEach(({data}, index) => call.write({session_id: index === 0 ? 'js-copy' : '', data}));
    call.end();
  });
  assert.strictEqual(imported.session.watermarks.accepted, String(2 * fact.length));
  assert.strictEqual((await query('js-copy', question)).answer, answer);

  const fork = await unary(memory, 'ForkSession', {session_id: 'js', fork_id: 'js-fork', offset: fact.length});
  assert.strictEqual(fork.session.watermarks.accepted, String(fact.length));
  const erased = await unary(memory, 'EraseSpan', {session_id: 'js', begin_offset: 0, end_offset: fact.length});
  assert.deepStrictEqual(erased.still_in, ['js-fork']);
  assert.strictEqual((await unary(memory, 'Reset', {session_id: 'js'})).session.epoch, '3');
  const backup = await unary(admin, 'CreateBackup', {});
  assert.ok(backup.backup_id > 0);
  for (const name of ['js', 'js-copy', 'js-fork']) await unary(memory, 'DeleteSession', {session_id: name});

  const {NOT_FOUND, INVALID_ARGUMENT} = grpc.status;
  await assert.rejects(unary(memory, 'GetSession', {session_id: 'js'}), (error) => error.code === NOT_FOUND);
  await assert.rejects(query('js', question), (error) => error.code === NOT_FOUND);
  await assert.rejects(unary(memory, 'CreateSession', {session_id: 'no/name'}), (error) => error.code === INVALID_ARGUMENT);
  const refused = memory.Stream();
  refused.write({append: {sequence: 1, text: Buffer.from('x')}});
  await assert.rejects(all(refused), (error) => error.code === INVALID_ARGUMENT);

  memory.close();
  admin.close();
  console.log([...called].join('\n'));
}

main();  // an error that nobody catches ends node with 1
