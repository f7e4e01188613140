// Fork and join over threads that share this memory. One instance of the module runs in each thread; they meet in a
// control block at a fixed address. A kernel is a function (arguments, chunk); which thread takes which chunk is left
// to chance, so a chunk must write only what no other chunk writes.

/** Where the control block lies; the same numbers stand in ../memory.ts. */
const TICKET: usize = 64; // i64: generation of the job in the high half, next free chunk in the low half
const DONE: usize = 128; // i32: chunks finished
const SLEEPERS: usize = 192; // i32: workers that wait for the next generation
const MAIN_WAITS: usize = 196; // i32: 1 while the calling thread waits for DONE
const QUIT: usize = 200; // i32: 1 when workers shall return
const FAILED: usize = 204; // i32: 1 when a worker died
const SCRATCH: usize = 208; // i32: start of the threads' scratch memory
const SCRATCH_BYTES: usize = 212; // i32: bytes of it for each thread
const KERNEL: usize = 256; // i32: table index
const COUNT: usize = 260; // i32: chunks of the job
const ARGUMENTS: usize = 320; // f64[24]

const CLOSED: i64 = 0x7fffffff;
const WORKER_SPINS: i32 = 4000;
const MAIN_SPINS: i32 = 8000;
const TICK: i64 = 50_000_000; // ns between looks at FAILED and QUIT

let thread: usize = 0;

export function setThread(index: i32): void {
  thread = index;
}

/** This thread's scratch memory; its contents are lost between chunks. */
// @ts-ignore: decorator
@inline
export function scratch(): usize {
  return <usize>load<u32>(SCRATCH) + thread * <usize>load<u32>(SCRATCH_BYTES);
}

/** Argument i of the running kernel as an integer or address (numbers travel as f64). */
// @ts-ignore: decorator
@inline
export function int(p: usize, i: usize): i32 {
  return <i32>(<u32>load<f64>(p + (i << 3)));
}

// @ts-ignore: decorator
@inline
export function ptr(p: usize, i: usize): usize {
  return <usize>(<u32>load<f64>(p + (i << 3)));
}

// @ts-ignore: decorator
@inline
export function float(p: usize, i: usize): f32 {
  return <f32>load<f64>(p + (i << 3));
}

/** Takes chunks of the open job until none is left. */
function takeChunks(): void {
  while (true) {
    const ticket = atomic.load<i64>(TICKET);
    const chunk = <i32>ticket;
    const count = atomic.load<i32>(COUNT);
    if (chunk >= count) return;
    const kernel = atomic.load<i32>(KERNEL);
    // Success proves that the job read above is still the open one: a job ends only when all its chunks are taken,
    // and its ticket is closed before the next job is written down.
    if (atomic.cmpxchg<i64>(TICKET, ticket, ticket + 1) != ticket) continue;
    call_indirect<void>(kernel, ARGUMENTS, chunk);
    if (atomic.add<i32>(DONE, 1) + 1 == count && atomic.load<i32>(MAIN_WAITS) != 0) atomic.notify(DONE, 1);
  }
}

/** Runs the job in the control block on all threads. Returns 0, or 1 when a worker died. */
export function forkJoin(): i32 {
  const count = load<i32>(COUNT);
  const generation = (atomic.load<i64>(TICKET) >> 32) + 1;
  atomic.store<i32>(DONE, 0);
  atomic.store<i64>(TICKET, generation << 32);
  const sleepers = atomic.load<i32>(SLEEPERS);
  if (sleepers > 0) atomic.notify(TICKET + 4, min(sleepers, count - 1));
  takeChunks();
  let spins = 0;
  while (atomic.load<i32>(DONE) < count) {
    if (++spins < MAIN_SPINS) continue;
    if (atomic.load<i32>(FAILED) != 0) return 1;
    atomic.store<i32>(MAIN_WAITS, 1);
    const done = atomic.load<i32>(DONE);
    if (done < count) atomic.wait<i32>(DONE, done, TICK);
    atomic.store<i32>(MAIN_WAITS, 0);
  }
  atomic.store<i64>(TICKET, (generation << 32) | CLOSED);
  return 0;
}

/** Runs the job in the control block on the calling thread alone. */
export function runAlone(): void {
  const count = load<i32>(COUNT);
  const kernel = load<i32>(KERNEL);
  for (let chunk = 0; chunk < count; ++chunk) call_indirect<void>(kernel, ARGUMENTS, chunk);
}

/** A worker's life: spin shortly for the next job, then sleep until notified. Returns when QUIT is set. */
export function workerLoop(): void {
  let seen = atomic.load<i32>(TICKET + 4);
  while (true) {
    let spins = 0;
    while (atomic.load<i32>(TICKET + 4) == seen) {
      if (++spins < WORKER_SPINS) continue;
      atomic.add<i32>(SLEEPERS, 1);
      atomic.wait<i32>(TICKET + 4, seen, -1);
      atomic.sub<i32>(SLEEPERS, 1);
      if (atomic.load<i32>(QUIT) != 0) return;
    }
    if (atomic.load<i32>(QUIT) != 0) return;
    seen = atomic.load<i32>(TICKET + 4);
    takeChunks();
  }
}
