/**
 * The peers of bench/peers: other libraries, each in its own process. Where that folder's packages are not installed,
 * peers are reported as missing and everything else runs.
 */
import type { Clock, Contender } from './harness.js'
import { type Missing, openPeers, type Peer, type PeerCase } from './peers/client.js'

export type { Peer, PeerCase }

export interface Opponents {
  peers: Peer[]
  missing: Missing[]
}

/** @param only names, or `none`; everything that is installed by default */
export const openOpponents = async (threads: number, only?: string[]): Promise<Opponents> =>
  only?.includes('none') ? { peers: [], missing: [] } : openPeers({ threads, ...(only && { only }) })

/** A peer as a contender on one case. */
export const contender = (peer: Peer, c: PeerCase, clock: Clock): Contender => ({
  name: peer.name,
  sample: (ms) => peer.sample(c, ms, clock),
})

/** By their names: dq, dx, d.lora… */
export const isGradient = (output: string): boolean => output.startsWith('d')

/** The largest accepted difference, in float32 and where bfloat16 is involved. */
export const limitOf = (output: string, exact: boolean): number => (exact ? 1e-4 : isGradient(output) ? 5e-2 : 2e-2)
