// npm run bench:peers: installs the peers of the benchmarks, those of npm into node_modules and those of pip into a
// virtual environment, .venv; both folders are this one's and in no commit. Pip's are left out, loudly, where there is
// no Python, or pip has no torch; a failed installation is no failed command, since every peer may be missing.
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const windows = process.platform === 'win32'

/** Whether a command ended well; why not is on the terminal. */
const run = (command, args) =>
  spawnSync(command, args, { stdio: 'inherit', shell: windows && command === 'npm' }).status === 0

const npm = run('npm', ['ci', '--prefix', here])

const venv = join(here, '.venv')
const python = join(venv, windows ? 'Scripts/python.exe' : 'bin/python')
const packages = [
  ...['-m', 'pip', 'install', '--upgrade', '--only-binary', ':all:'],
  ...['--requirement', join(here, 'requirements.txt')],
]

/** What went wrong, or undefined. */
function environment() {
  const base = process.env.MT_PYTHON || (windows ? 'python' : 'python3')
  if (!existsSync(python) && !run(base, ['-m', 'venv', venv])) return `${base} makes no virtual environment`
  return run(python, packages) ? undefined : 'pip did not install torch, transformers and peft'
}
const reason = environment()
if (reason !== undefined) {
  rmSync(venv, { recursive: true, force: true }) // half of it would be taken for all
  console.error(`npm run bench:peers: SKIPPED, there are no peers in Python: ${reason}; see its output above.`)
}
process.exit(npm ? 0 : 1)
