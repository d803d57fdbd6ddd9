/** Which Python the peers run in, and in which environment. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { env, platform } from 'node:process'

/** The Python of the virtual environment that `npm run bench:peers` makes. */
export const venvPython = fileURLToPath(
  new URL(platform === 'win32' ? '.venv/Scripts/python.exe' : '.venv/bin/python', import.meta.url),
)

/** Commands that may have torch, in order: MT_PYTHON alone where it is set; the virtual environment; the machine's. */
export function pythons(): string[] {
  if (env.MT_PYTHON) return [env.MT_PYTHON]
  return [
    ...(existsSync(venvPython) ? [venvPython] : []),
    ...(platform === 'win32' ? ['python'] : ['python3', '/usr/bin/python3']),
  ]
}

/**
 * Makes glibc keep freed memory: returning large tensors to the system and allocating them again costs a page fault per
 * page, which was measured to slow PyTorch's calls three to ten times. Other C libraries ignore it.
 */
export const KEPT_MEMORY = {
  MALLOC_MMAP_MAX_: '0',
  MALLOC_TRIM_THRESHOLD_: `${2 ** 40}`,
  MALLOC_TOP_PAD_: `${2 ** 28}`,
}

/** OpenBLAS chooses its kernels by the CPU, unless MT_PEERS_CORETYPE names a core type. OpenMP's idle threads sleep. */
export function torchEnvironment(threads: number): NodeJS.ProcessEnv {
  const { OPENBLAS_CORETYPE: _, ...rest } = env
  const { MT_PEERS_CORETYPE: core } = rest
  return {
    ...rest,
    ...(core ? { OPENBLAS_CORETYPE: core } : {}),
    OMP_NUM_THREADS: `${threads}`,
    OMP_WAIT_POLICY: 'passive',
  }
}
