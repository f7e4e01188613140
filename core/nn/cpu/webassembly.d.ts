/**
 * The part of the WebAssembly JavaScript API that this room uses. TypeScript has it only in its browser library, which
 * a program without a window should not see.
 */
declare namespace WebAssembly {
  interface Memory {
    readonly buffer: SharedArrayBuffer;
    grow(pages: number): number;
  }
  interface Module {
    /** Tells modules from other objects; there is no such field. */
    readonly __brand?: 'WebAssembly.Module';
  }
  interface Table {
    set(index: number, value: CallableFunction): void;
  }
  interface Instance {
    readonly exports: Readonly<Record<string, unknown>>;
  }
  type Imports = Readonly<Record<string, Readonly<Record<string, Memory | Table>>>>;

  const Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => Memory;
  const Table: new (descriptor: { element: 'anyfunc'; initial: number }) => Table;
  const Instance: new (module: Module, imports: Imports) => Instance;
  const Module: {
    new (bytes: Uint8Array): Module;
    exports(module: Module): { readonly name: string; readonly kind: string }[];
  };
  function compile(bytes: Uint8Array): Promise<Module>;
  function validate(bytes: Uint8Array): boolean;
}
