/**
 * The peers, as bench/peers offers them: other libraries, each in a process of its own. Where that folder's packages are not
 * installed, peers are named as missing and everything else runs.
 */
import { existsSync } from 'node:fs'
import type { Form, Pass } from '../lib/eval/cost.js'
import type { Clock, Contender } from './harness.js'

/** One case for a peer. Everything it needs is in the safetensors file at `tensors` (float32). */
export interface PeerCase {
  id: string
  kind: 'core' | 'block' | 'qformer' | 'linear'
  pass: Pass
  form: Form
  sizes: { B: number; T: number; L: number; K: number; heads: number; D: number; layers?: number; KV?: number; DV?: number; rank?: number; scaling?: number; eps?: number }
  dtype: 'float32' | 'bfloat16'
  tensors: string
}

export interface Peer {
  name: string
  version: string
  details: Record<string, string>
  prepare(c: PeerCase): Promise<{ outputs: Record<string, Float32Array> } | { unavailable: string }>
  /** Microseconds of each call, for about `ms` milliseconds. */
  sample(c: PeerCase, ms: number, clock?: Clock): Promise<number[]>
  peak?(c: PeerCase): Promise<number | undefined>
  forget(c: PeerCase): Promise<void>
  close(): Promise<void>
}

export interface Opponents {
  peers: Peer[]
  missing: { name: string; reason: string }[]
}

/** @param only names, or `none`; everything that is installed by default */
export async function openOpponents(threads: number, only?: readonly string[]): Promise<Opponents> {
  if (only?.includes('none')) return { peers: [], missing: [] }
  const client = new URL('peers/client.ts', import.meta.url)
  if (!existsSync(client)) return { peers: [], missing: [{ name: 'all peers', reason: 'bench/peers/client.ts is not there' }] }
  const { openPeers } = (await import(client.href)) as { openPeers(options: { threads: number; only?: readonly string[] }): Promise<Opponents> }
  return openPeers({ threads, ...(only && { only }) })
}

/** A peer as a contender on one case. */
export const contender = (peer: Peer, c: PeerCase, clock: Clock): Contender => ({ name: peer.name, sample: (ms) => peer.sample(c, ms, clock) })

/** By their names: dq, dx, d.lora… */
export const isGradient = (output: string): boolean => output.startsWith('d')

/** What a difference may be, where all is float32 and where bfloat16 is involved. */
export const limitOf = (output: string, exact: boolean): number => (exact ? 1e-4 : isGradient(output) ? 5e-2 : 2e-2)
