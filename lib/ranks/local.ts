/** Ranks of one process: each computes on a device of its own. */
import type { Transport } from './ranks.js'

/** Transports of `size` ranks that run at the same time in this process. */
export function localTransports(size: number): Transport[] {
  /** The bytes of those who wait for the others, by rank. */
  let waiting = new Map<number, { bytes: Uint8Array; done: (all: Uint8Array[]) => void }>()
  const meet = (rank: number, bytes: Uint8Array): Promise<Uint8Array[]> =>
    new Promise((done) => {
      waiting.set(rank, { bytes, done })
      if (waiting.size < size) return
      const all = waiting
      waiting = new Map()
      const parts = Array.from({ length: size }, (_, r) => all.get(r)!.bytes)
      for (const { done } of all.values()) done(parts)
    })
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    shared: true,
    allgather: async (bytes) => new Uint8Array(Buffer.concat(await meet(rank, bytes))),
    alltoall: async (bytes) => {
      const part = bytes.length / size
      const own = (all: Uint8Array): Uint8Array => all.subarray(rank * part, (rank + 1) * part)
      return new Uint8Array(Buffer.concat((await meet(rank, bytes)).map(own)))
    },
    broadcast: async (bytes, root) => Uint8Array.from((await meet(rank, bytes))[root]!),
    abort: () => {},
    close: async () => void (await meet(rank, new Uint8Array(0))),
  }))
}
