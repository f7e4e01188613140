/** Speaks like core/host/main.ts towards the shell, and misbehaves as its arguments say. */
const [mode, ...rest] = process.argv.slice(2);
const ready = () => console.log(JSON.stringify({ url: `http://127.0.0.1:40123/?token=${process.pid}` }));

// Open until told to end, like a server.
const open = setInterval(() => {}, 1000);
const close = () => {
  clearInterval(open);
  console.error('saved');
  process.disconnect?.();
};

if (mode === 'dies-at-start') {
  console.error('project.sqlite is held by another app');
  process.exit(3);
} else if (mode === 'never-ready') {
  process.on('disconnect', () => process.exit());
} else if (mode === 'deaf') {
  process.on('SIGTERM', () => {});
  ready();
} else if (mode === 'crashes') {
  ready();
  setTimeout(() => {
    console.error('Error: database disk image is malformed');
    process.exit(7);
  }, 50);
} else if (mode === 'crashes-once') {
  const { existsSync, writeFileSync } = await import('node:fs');
  process.on('SIGTERM', close);
  ready();
  if (!existsSync(rest[0])) {
    writeFileSync(rest[0], '');
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), 50);
  }
} else if (mode === 'asks' || mode === 'asks-for-weights') {
  process.on('SIGTERM', close);
  process.on('message', (answer) => console.error(`answer ${JSON.stringify(answer)}`));
  process.send({ type: 'nonsense' });
  process.send({ type: 'chooseFolder', requestId: 12, purpose: mode === 'asks' ? 'images' : 'weights' });
  ready();
} else {
  process.on('SIGTERM', close);
  console.error(`NODE_OPTIONS=${process.env.NODE_OPTIONS ?? ''} ELECTRON_RUN_AS_NODE=${process.env.ELECTRON_RUN_AS_NODE ?? ''}`);
  console.log('not a line for the shell');
  console.log('{"also":"not"}');
  ready();
}
