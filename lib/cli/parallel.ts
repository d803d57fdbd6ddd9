/** Commands that several processes compute together: `mpirun -n N npx mtransllama train … --parallel mpi`. */
import type { Command } from 'commander'
import { InputError, invalid } from '../errors.js'
import { launched, openMpi } from '../ranks/mpi.js'
import { localTransports } from '../ranks/local.js'
import { alone, Ranks, RankStopped } from '../ranks/ranks.js'
import { devices } from '../tensor/device.js'
import { Interrupted } from './common.js'

/** The option of every command that several processes can compute. */
export interface Parallel {
  parallel?: string
}

/** Adds it to a command. */
export const parallels = (command: Command): Command =>
  command.option(
    '--parallel <how>',
    'mpi: all processes that mpirun started compute this together; none: each computes it alone',
  )

/**
 * Runs `act` with the ranks that the options ask for. What one of them throws ends all: the first rank throws it, and
 * the others end without a word.
 */
export async function together(what: string | undefined, act: (ranks: Ranks) => Promise<void>): Promise<void> {
  const ranks = await ranksOf(what)
  if (ranks.size === 1) return act(ranks)
  let failure: { error: unknown } | undefined
  try {
    await act(ranks)
  } catch (error) {
    failure = { error }
    await ranks.failed(error, error instanceof Interrupted)
  }
  // mpirun ends all processes as soon as one exits with another code than 0, so the first rank alone does, at the end.
  await ranks.close().catch((error: unknown) => (failure ??= { error }))
  if (!failure) return
  const { error } = failure
  const known = error instanceof InputError || error instanceof Interrupted || error instanceof RankStopped
  if (!known || ranks.broken) console.error(`mtransllama: rank ${ranks.rank}:`, known ? error.message : error)
  if (ranks.broken) ranks.abort(1)
  if (!ranks.first) throw new Interrupted(0)
  if (!(error instanceof RankStopped)) throw error
  console.error(`mtransllama: ${error.message}, which ends all.`)
  throw new Interrupted(143)
}

/** Runs `act` for each of the devices, as ranks of this process. What one of them throws ends all. */
export async function onDevices(
  { devices: list = '', device, parallel }: Parallel & { devices?: string; device: string },
  act: (ranks: Ranks, device: string) => Promise<void>,
): Promise<void> {
  const names = list.split(',').map((name) => name.trim())
  if (names.includes('') || names.includes('auto'))
    throw invalid('--devices', 'devices with commas between them, such as cuda:0,cuda:1', list)
  if (device !== 'auto') throw invalid('--devices', 'to be given without --device', device)
  if ((await ranksOf(parallel)).size > 1) throw invalid('--devices', 'to be given without --parallel mpi', parallel)
  const results = await Promise.allSettled(
    localTransports(names.length).map(async (transport, i) => {
      const ranks = new Ranks(transport)
      try {
        await act(ranks, names[i]!)
      } catch (error) {
        await ranks.failed(error, error instanceof Interrupted)
        throw error
      } finally {
        await ranks.close()
      }
    }),
  )
  const errors = results.flatMap((r): unknown[] => (r.status === 'rejected' ? [r.reason] : []))
  // The first rank's says what was saved; an unexpected one has its stack where it was thrown.
  const own = errors.find((e) => ![InputError, Interrupted, RankStopped].some((known) => e instanceof known))
  if (errors.length) throw own ?? errors[0]
}

async function ranksOf(what: string | undefined): Promise<Ranks> {
  const launch = launched()
  if (what === undefined || what === 'none') {
    if (what === undefined && launch && launch.size > 1)
      throw invalid(
        '--parallel',
        `mpi, since mpirun started ${launch.size} processes`,
        new Error('nothing'),
        'with none each would compute all of it',
      )
    return alone
  }
  if (what !== 'mpi') throw invalid('--parallel', 'mpi or none', what)
  if (launch) return openMpi(launch)
  console.error(
    'mtransllama: --parallel mpi: mpirun did not start this process, so it computes alone; mpirun -n N npx mtransllama … starts N.',
  )
  return alone
}

/** The options of a process that shares its machine with others: of several GPUs each takes its own. */
export function ofRank<O extends Parallel & { device: string }>(o: O): O {
  const launch = o.parallel === 'mpi' ? launched() : undefined
  if (!launch || (o.device !== 'auto' && o.device !== 'cuda')) return o
  const found = devices().cuda.devices
  return found.length > 1 ? { ...o, device: found[launch.localRank % found.length]!.device } : o
}
