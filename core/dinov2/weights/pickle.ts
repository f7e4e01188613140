/**
 * Reads Python's pickle format (docs.python.org/3/library/pickletools.html, protocols 2 to 5) as data. A pickle is a program
 * that may call anything in Python; here its calls are given to the caller by name, who knows a closed list of them, and
 * nothing is ever looked up or run. Opcodes that weights do not need are refused.
 */
import { FileFault } from './fault.ts';

/** Something in Python that a pickle names, as "module.name". Only a name. */
export class Global {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** A tuple; lists are plain arrays. */
export class Tuple {
  readonly items: readonly unknown[];

  constructor(items: readonly unknown[]) {
    this.items = items;
  }
}

export interface PickleCalls {
  /** What a name stands for. @throws FileFault naming it when it is not one of those known */
  global(name: string): unknown;
  /** The result of calling what `global` returned. */
  call(callable: unknown, args: readonly unknown[]): unknown;
  /** The object behind an id that the file format resolves itself (storages). */
  persistent(id: unknown): unknown;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * The object that a pickle makes, and where the pickle ends. Dictionaries are Maps, None is null, integers beyond 2^53 are
 * bigints.
 * @throws FileFault for bytes that are cut short, unknown opcodes, and whatever `calls` refuses
 */
export function unpickle(bytes: Uint8Array, start: number, calls: PickleCalls): { value: unknown; end: number } {
  const reader = new PickleReader(bytes, start, calls);
  const value = reader.run();
  return { value, end: reader.position };
}

class PickleReader {
  position: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #calls: PickleCalls;
  readonly #memo = new Map<number, unknown>();
  #stack: unknown[] = [];
  /** The stacks below each mark. */
  readonly #below: unknown[][] = [];

  constructor(bytes: Uint8Array, start: number, calls: PickleCalls) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = start;
    this.#calls = calls;
  }

  run(): unknown {
    for (;;) {
      const opcode = this.#byte();
      if (opcode === 0x2e) return this.#pop(); // STOP
      this.#step(opcode);
    }
  }

  #step(opcode: number): void {
    switch (opcode) {
      case 0x80: // PROTO
        this.#protocol(this.#byte());
        break;
      case 0x95: // FRAME: a hint for readers of streams
        this.#take(8);
        break;
      case 0x28: // MARK
        this.#below.push(this.#stack);
        this.#stack = [];
        break;
      case 0x4e: // NONE
        this.#push(null);
        break;
      case 0x88: // NEWTRUE
        this.#push(true);
        break;
      case 0x89: // NEWFALSE
        this.#push(false);
        break;
      case 0x4a: // BININT
        this.#push(this.#view.getInt32(this.#take(4), true));
        break;
      case 0x4b: // BININT1
        this.#push(this.#byte());
        break;
      case 0x4d: // BININT2
        this.#push(this.#view.getUint16(this.#take(2), true));
        break;
      case 0x8a: // LONG1
        this.#push(this.#long(this.#byte()));
        break;
      case 0x47: // BINFLOAT
        this.#push(this.#view.getFloat64(this.#take(8), false));
        break;
      case 0x58: // BINUNICODE
        this.#push(this.#text(this.#uint32()));
        break;
      case 0x8c: // SHORT_BINUNICODE
        this.#push(this.#text(this.#byte()));
        break;
      case 0x55: // SHORT_BINSTRING, as Python 2 wrote text
        this.#push(this.#text(this.#byte()));
        break;
      case 0x42: // BINBYTES
        this.#push(this.#raw(this.#uint32()));
        break;
      case 0x43: // SHORT_BINBYTES
        this.#push(this.#raw(this.#byte()));
        break;
      case 0x5d: // EMPTY_LIST
        this.#push([]);
        break;
      case 0x61: // APPEND
        this.#append([this.#pop()]);
        break;
      case 0x65: // APPENDS
        this.#append(this.#toMark());
        break;
      case 0x29: // EMPTY_TUPLE
        this.#push(new Tuple([]));
        break;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        this.#push(new Tuple(this.#popLast(opcode - 0x84)));
        break;
      case 0x74: // TUPLE
        this.#push(new Tuple(this.#toMark()));
        break;
      case 0x7d: // EMPTY_DICT
        this.#push(new Map());
        break;
      case 0x73: // SETITEM
        this.#setItems(this.#popLast(2));
        break;
      case 0x75: // SETITEMS
        this.#setItems(this.#toMark());
        break;
      case 0x63: // GLOBAL
        this.#push(this.#calls.global(`${this.#line()}.${this.#line()}`));
        break;
      case 0x93: {
        // STACK_GLOBAL
        const [module, name] = this.#popLast(2);
        if (typeof module !== 'string' || typeof name !== 'string') throw this.#fault('names something by what is no text');
        this.#push(this.#calls.global(`${module}.${name}`));
        break;
      }
      case 0x52: {
        // REDUCE
        const [callable, args] = this.#popLast(2);
        if (!(args instanceof Tuple)) throw this.#fault('calls something without a list of arguments');
        this.#push(this.#calls.call(callable, args.items));
        break;
      }
      case 0x62: // BUILD: attributes of a dictionary (PyTorch's _metadata) say nothing that is needed
        this.#pop();
        if (!(this.#top() instanceof Map)) throw this.#fault('sets attributes of something that is no dictionary');
        break;
      case 0x71: // BINPUT
        this.#memo.set(this.#byte(), this.#top());
        break;
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#uint32(), this.#top());
        break;
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        break;
      case 0x68: // BINGET
        this.#push(this.#recall(this.#byte()));
        break;
      case 0x6a: // LONG_BINGET
        this.#push(this.#recall(this.#uint32()));
        break;
      case 0x51: // BINPERSID
        this.#push(this.#calls.persistent(this.#pop()));
        break;
      default:
        this.position--;
        throw this.#fault(`has the opcode 0x${opcode.toString(16).padStart(2, '0')}, which no weights file needs`);
    }
  }

  #protocol(version: number): void {
    if (version < 2 || version > 5) throw this.#fault(`is of protocol ${version}, not 2 to 5`);
  }

  // --- bytes ----------------------------------------------------------------------------------------------------------

  /** @returns where the bytes start */
  #take(count: number): number {
    const start = this.position;
    if (count > this.#bytes.length - start) throw new FileFault(`its list of tensors breaks off at byte ${this.#bytes.length}`);
    this.position += count;
    return start;
  }

  #byte(): number {
    return this.#bytes[this.#take(1)]!;
  }

  #uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #raw(length: number): Uint8Array {
    const start = this.#take(length);
    return this.#bytes.subarray(start, start + length);
  }

  #text(length: number): string {
    try {
      return utf8.decode(this.#raw(length));
    } catch (error) {
      if (error instanceof FileFault) throw error;
      throw this.#fault('has text that is not UTF-8');
    }
  }

  /** Up to the next line feed. */
  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.position);
    const text = this.#text((end < 0 ? this.#bytes.length + 1 : end) - this.position);
    this.position++;
    return text;
  }

  /** Two's complement, little-endian. */
  #long(length: number): number | bigint {
    let value = 0n;
    const bytes = this.#raw(length);
    for (const [i, byte] of bytes.entries()) value |= BigInt(byte) << BigInt(8 * i);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  // --- the stack ------------------------------------------------------------------------------------------------------

  #push(value: unknown): void {
    this.#stack.push(value);
  }

  #pop(): unknown {
    return this.#popLast(1)[0];
  }

  #popLast(count: number): unknown[] {
    if (this.#stack.length < count) throw this.#fault('takes more than it has laid down');
    return this.#stack.splice(this.#stack.length - count);
  }

  #top(): unknown {
    if (this.#stack.length === 0) throw this.#fault('takes more than it has laid down');
    return this.#stack.at(-1);
  }

  #toMark(): unknown[] {
    const items = this.#stack;
    const below = this.#below.pop();
    if (!below) throw this.#fault('closes a list that it never began');
    this.#stack = below;
    return items;
  }

  #append(items: readonly unknown[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) throw this.#fault('appends to something that is no list');
    for (const item of items) list.push(item);
  }

  #setItems(items: readonly unknown[]): void {
    const map = this.#top();
    if (!(map instanceof Map) || items.length % 2 !== 0) throw this.#fault('puts entries into something that is no dictionary');
    for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
  }

  #recall(index: number): unknown {
    if (!this.#memo.has(index)) throw this.#fault(`recalls entry ${index}, which it never kept`);
    return this.#memo.get(index);
  }

  #fault(what: string): FileFault {
    return new FileFault(`its list of tensors ${what} (at byte ${this.position})`);
  }
}
