'use strict';

// The files of examples/deploy: the commands and settings in them are tried here, without Docker and Kubernetes.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { generateKeyPairSync } = require('node:crypto');
const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const readline = require('node:readline');
const test = require('ava');
const { parseAllDocuments } = require('yaml');
const { authority } = require('../testkit/certificates');
const { startServer } = require('./support/start');

const root = path.join(__dirname, '..');
const read = (name) => fs.readFileSync(path.join(root, 'examples', 'deploy', name), 'utf8');
const CLI = path.join(root, 'bin', 'wsmsgbroker.js');

/** The command of an instruction of the Dockerfile. */
function instruction(name) {
  const [, json] = new RegExp(`^${name}(?: CMD)? (\\[.*\\])$`, 'm').exec(read('Dockerfile'));
  return JSON.parse(json);
}

/** A folder with the settings of the image, but for the ports, and the token that they name. */
function image(t, ports) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const token = path.join(folder, 'admin-token');
  fs.writeFileSync(token, '0123456789abcdef\n');
  const settings = JSON.parse(read('broker.json'));
  const own = {
    ...settings,
    port: ports.port ?? settings.port,
    admin: { ...settings.admin, port: ports.admin ?? settings.admin.port, token },
  };
  fs.writeFileSync(path.join(folder, 'broker.json'), JSON.stringify(own));
  return { folder, settings };
}

test('the broker of the image starts, is healthy, and stops on SIGTERM', async (t) => {
  const admin = path.join(os.tmpdir(), `wsmsgbroker-${process.pid}-admin`);
  const { folder } = image(t, { port: 0, admin });
  const [node, program, ...args] = instruction('ENTRYPOINT');
  t.is(node, 'node');
  t.is(program, 'node_modules/wsmsgbroker/bin/wsmsgbroker.js');
  const times = ['--drain-delay', '1', '--drain', '1'];
  const child = spawn(process.execPath, [CLI, ...args, ...times], { cwd: folder });
  t.teardown(() => child.kill('SIGKILL'));
  await once(readline.createInterface({ input: child.stdout }), 'line');
  child.kill('SIGTERM');
  t.deepEqual(await once(child, 'exit'), [0, null]);
});

test('the health check of the image fails without a broker', async (t) => {
  const server = await startServer(t, { admin: { port: 0 } });
  const { port } = server.adminAddress();
  const [, flag, code] = instruction('HEALTHCHECK');
  t.is(flag, '-e');
  t.true(code.includes(':9464/'));
  const check = async () => {
    const child = spawn(process.execPath, [flag, code.replace(':9464/', `:${port}/`)]);
    return (await once(child, 'exit'))[0];
  };
  t.is(await check(), 0);
  await server.close();
  t.is(await check(), 1);
});

test('the settings of the image are valid, alone and with the variables of Kubernetes', (t) => {
  const { folder } = image(t, {});
  const { containers } = deployment().spec.template.spec;
  const env = Object.fromEntries(
    containers[0].env.map(({ name, value = 'broker-7d9f-abcde' }) => [name, value]),
  );
  for (const more of [{}, env]) {
    const { status, stderr } = spawnSync(
      process.execPath,
      [CLI, 'check', '--config', 'broker.json'],
      {
        cwd: folder,
        env: { ...process.env, ...more },
        encoding: 'utf8',
      },
    );
    t.deepEqual([status, stderr], [0, '']);
  }
  const unknown = Object.keys(env).filter((name) => !/^WSMB_NATS(?:_NAME)?$/.test(name));
  t.deepEqual(unknown, []);
});

test('the settings in the documents are valid', (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const { cert, key } = authority().issue();
  const files = {
    'fullchain.pem': cert,
    'privkey.pem': key,
    'issuer.pem': generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' }),
    'admin-token': '0123456789abcdef\n',
  };
  for (const [name, text] of Object.entries(files)) {
    fs.writeFileSync(path.join(folder, name), text);
  }
  for (const document of [
    'docs/api.md',
    'docs/guides/deployment.md',
    'docs/guides/monitoring.md',
  ]) {
    const text = fs.readFileSync(path.join(root, document), 'utf8');
    const blocks = [...text.matchAll(/^```json\n([\s\S]*?)^```$/gm)].map(([, json]) => json);
    const settings = blocks.filter((json) => json.includes('"port"'));
    t.true(settings.length > 0, document);
    for (const json of settings) {
      const config = path.join(folder, 'broker.json');
      fs.writeFileSync(config, json.replaceAll('/etc/wsmsgbroker', folder));
      const args = [CLI, 'check', '--config', config];
      const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
      t.deepEqual([status, stderr], [0, ''], document);
    }
  }
});

/** The objects of kubernetes.yaml by kind. */
function kinds() {
  const documents = parseAllDocuments(read('kubernetes.yaml'));
  for (const { errors, warnings } of documents) {
    if (errors.length + warnings.length > 0) throw errors[0] ?? warnings[0];
  }
  return Object.fromEntries(documents.map((document) => [document.get('kind'), document.toJS()]));
}

const deployment = () => kinds().Deployment;

test('ports, labels and times of the Kubernetes objects fit each other', (t) => {
  const { Deployment, Service, PodDisruptionBudget, HorizontalPodAutoscaler } = kinds();
  const { template, selector } = Deployment.spec;
  const [container] = template.spec.containers;
  const { port, admin, drain, drainDelay } = JSON.parse(read('broker.json'));
  const ports = Object.fromEntries(
    container.ports.map(({ name, containerPort }) => [name, containerPort]),
  );
  t.deepEqual(ports, { websocket: port, admin: admin.port });
  for (const probe of ['readinessProbe', 'livenessProbe']) {
    t.is(ports[container[probe].httpGet.port], admin.port);
  }
  t.is(Service.spec.ports[0].targetPort, 'websocket');
  for (const labels of [
    selector.matchLabels,
    Service.spec.selector,
    PodDisruptionBudget.spec.selector.matchLabels,
  ]) {
    t.deepEqual(labels, template.metadata.labels);
  }
  t.is(HorizontalPodAutoscaler.spec.scaleTargetRef.name, Deployment.metadata.name);
  const grace = template.spec.terminationGracePeriodSeconds * 1000;
  t.true(grace > drain + drainDelay + 5000);
  // Load balancers notice that a broker is not ready before it stops to listen.
  t.true(container.readinessProbe.periodSeconds * 1000 * 3 < drainDelay);
  const mounted = container.volumeMounts.map(({ mountPath }) => mountPath);
  t.true(mounted.includes(path.posix.dirname(admin.token)));
});

test('the dashboard of Grafana uses metrics and labels that exist', async (t) => {
  const server = await startServer(t);
  const text = server.metrics();
  const { panels } = JSON.parse(read('grafana.json'));
  const expressions = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
  t.true(expressions.length > 15);
  for (const expression of expressions) {
    const names = expression.match(/wsmsgbroker_\w+/g);
    for (const name of names) t.regex(text, new RegExp(`^${name}[ {]`, 'm'), expression);
    const [, label] = /by \((\w+)\)/.exec(expression) ?? [];
    if (label) t.regex(text, new RegExp(`^${names[0]}\\{${label}="`, 'm'), expression);
  }
  const places = panels.map(({ gridPos: { x, y } }) => `${x},${y}`);
  t.is(new Set(places).size, panels.length);
});
