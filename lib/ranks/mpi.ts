/** Ranks that mpirun started. Open MPI's or MPICH's library is opened at run time. */
import { cpus } from 'node:os'
import { InputError, show } from '../errors.js'
import { native } from '../native.js'
import { threads } from '../tensor/runtime.js'
import { alone, Ranks } from './ranks.js'

/** How mpirun started this process. */
export interface Launch {
  /** Processes of the run, and of them those on this machine; this one's number among the latter. */
  size: number
  localSize: number
  localRank: number
  by: 'Open MPI' | 'MPICH'
}

/** What mpirun tells its processes; undefined where this is none. */
export function launched(env: NodeJS.ProcessEnv = process.env): Launch | undefined {
  const number = (...names: string[]): number | undefined => {
    const text = names.map((name) => env[name]).find((value) => value !== undefined)
    return text === undefined || !/^\d+$/.test(text) ? undefined : Number(text)
  }
  const size = number('OMPI_COMM_WORLD_SIZE', 'PMI_SIZE')
  if (size === undefined) return undefined
  return {
    size,
    localSize: number('OMPI_COMM_WORLD_LOCAL_SIZE', 'MPI_LOCALNRANKS') ?? 1,
    localRank: number('OMPI_COMM_WORLD_LOCAL_RANK', 'MPI_LOCALRANKID') ?? 0,
    by: env.OMPI_COMM_WORLD_SIZE === undefined ? 'MPICH' : 'Open MPI',
  }
}

/** Where the libraries are looked for, in this order. Upstream's names, and Debian's of MPICH. */
function libraries({ by }: Launch): string[] {
  const { MT_MPI: given } = process.env
  if (given) return [given]
  const mac = process.platform === 'darwin'
  const own = mac ? ['libmpi.40.dylib'] : ['libmpi.so.40']
  const mpich = mac ? ['libmpi.12.dylib', 'libpmpi.12.dylib'] : ['libmpich.so.12', 'libmpi.so.12']
  return [...(by === 'MPICH' ? [...mpich, ...own] : [...own, ...mpich]), mac ? 'libmpi.dylib' : 'libmpi.so']
}

/**
 * The processes that mpirun started together with this one, such as train() computes with; this one alone where it was
 * not started by mpirun. Once a process; to be closed in the end.
 *
 * @throws InputError where no library of Open MPI or MPICH can be opened, or it is not that of this mpirun
 */
export async function mpiRanks(): Promise<Ranks> {
  const launch = launched()
  return launch ? openMpi(launch) : alone
}

/**
 * The ranks of this process's mpirun. Ranks of one machine share its cores, unless MT_THREADS says otherwise.
 *
 * @throws InputError where no library of Open MPI or MPICH can be opened, or it is not that of this mpirun
 */
export async function openMpi(launch: Launch): Promise<Ranks> {
  const { mpi } = native()
  const name = '--parallel mpi'
  const remedy = `install that of this mpirun (in Debian openmpi-bin or mpich), or name its file in MT_MPI`
  try {
    await mpi.open(libraries(launch))
  } catch (error) {
    const why = (error as Error).message.replace(/^MPI: /, '')
    throw new InputError(`${name}: expected the library of Open MPI or MPICH, but ${oneLine(why)}; ${remedy}.`)
  }
  const { rank, size, version, file } = mpi.about()
  if (size !== launch.size)
    throw new InputError(
      `${name}: mpirun of ${launch.by} started ${launch.size} processes, but the library ${show(file)} (${oneLine(version)}) sees ${size}: it is another MPI's; ${remedy}.`,
    )
  if (!process.env.MT_THREADS) threads(Math.max(1, Math.min(threads(), Math.floor(cpus().length / launch.localSize))))
  return new Ranks({
    rank,
    size,
    allgather: async (bytes) => new Uint8Array(await told(mpi.allgather(bytes))),
    alltoall: async (bytes) => new Uint8Array(await told(mpi.alltoall(bytes))),
    broadcast: async (bytes, root) => new Uint8Array(await told(mpi.broadcast(bytes, root))),
    abort: (code) => mpi.abort(code),
    close: () => told(mpi.close()),
  })
}

const oneLine = (text: string): string => text.replace(/\s+/g, ' ').trim()

/** A call of MPI whose failure says what that means. */
const told = <R>(call: Promise<R>): Promise<R> =>
  call.catch((error: Error) => {
    throw new InputError(`${oneLine(error.message)}; another rank has ended, or the network between them failed.`)
  })
