/** Ownership of tensors: a scope frees the tensors made in it, unless they are returned, kept or disposed before. */
import { AsyncLocalStorage } from 'node:async_hooks'

/** The part of a tensor that a scope needs. */
export interface Owned {
  readonly dtype: string
  readonly shape: readonly number[]
  dispose(): void
  own(scope: Scope | undefined): void
  ownedBy(scope: Scope): boolean
}

/** What was made in it, kept by `Tensor.own`. */
export class Scope {
  readonly tensors: Owned[] = []
  closed = false
  constructor(readonly parent: Scope | undefined) {}
}

/** The innermost scope that is still open: asynchronous work may go on after the scope it was started in. */
function open(scope: Scope | undefined): Scope | undefined {
  while (scope?.closed) scope = scope.parent
  return scope
}

const current = new AsyncLocalStorage<Scope | undefined>()
const warn = process.env.MT_LEAKS === '1'
// The garbage collector frees forgotten tensors; under MT_LEAKS=1 it also warns.
const forgotten = warn
  ? new FinalizationRegistry<string>((what) =>
      process.emitWarning(`mtransllama: a tensor was left to the garbage collector: ${what}`),
    )
  : undefined

/** For Tensor: notes where it was made. */
export function enter(t: Owned): void {
  t.own(open(current.getStore()))
  forgotten?.register(t, `${t.dtype} [${t.shape}] ${caller()}`, t)
}
/** For Tensor: it was freed. */
export function leave(t: Owned): void {
  t.own(undefined)
  forgotten?.unregister(t)
}

/** The first line of the stack outside the folders of tensors and operators. */
function caller(): string {
  const lines = new Error().stack?.split('\n').slice(1) ?? []
  return (lines.find((line) => !/[\\/](tensor|ops)[\\/]\w+\.[jt]s/.test(line)) ?? lines.at(-1) ?? '').trim()
}

/** Takes a tensor out of every scope: the caller frees it. Returns it. */
export function keep<T extends Owned>(t: T): T {
  t.own(undefined)
  return t
}

/** The tensors in a value, at any depth: itself, or in arrays, maps, sets and plain objects. Cycles are walked once. */
function tensorsIn(value: unknown): Set<Owned> {
  const tensors = new Set<Owned>()
  const seen = new Set<object>()
  const todo: unknown[] = [value]
  while (todo.length) {
    const next = todo.pop()
    if (typeof next !== 'object' || next === null || seen.has(next)) continue
    seen.add(next)
    if ('ownedBy' in next) tensors.add(next as object as Owned)
    else if (Array.isArray(next) || next instanceof Set) for (const v of next) todo.push(v)
    else if (next instanceof Map) for (const [k, v] of next) todo.push(k, v)
    else if (isPlain(next)) for (const v of Object.values(next)) todo.push(v)
  }
  return tensors
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

function close(scope: Scope, result?: unknown): void {
  scope.closed = true
  const outer = open(scope.parent)
  for (const t of tensorsIn(result)) if (t.ownedBy(scope)) t.own(outer)
  while (scope.tensors.length) scope.tensors.at(-1)!.dispose()
}

/**
 * Runs `f` and frees every tensor made in it that is not kept or returned (alone, or at any depth in arrays, maps, sets
 * and plain objects; not in instances of classes). `f` may be async; then so is the result. Scopes nest.
 */
export function scope<R>(f: () => R): R {
  const inner = new Scope(current.getStore())
  let result: R
  try {
    result = current.run(inner, f)
  } catch (error) {
    close(inner)
    throw error
  }
  if (result instanceof Promise) {
    return result.then(
      (value: unknown) => (close(inner, value), value),
      (error: unknown) => {
        close(inner)
        throw error
      },
    ) as R
  }
  close(inner, result)
  return result
}
