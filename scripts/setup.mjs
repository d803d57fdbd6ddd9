// Makes a clone ready: dependencies as the lock file says, then the addon. Does nothing where both are there already.
import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))

function run(command, args, env) {
  const { status } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit'],
    shell: process.platform === 'win32' && command === 'npm',
  })
  if (status !== 0) {
    console.error(`mtransllama: "${command} ${args.join(' ')}" failed; see its output above.`)
    process.exit(status ?? 1)
  }
}

/** Installs and builds what is missing, in that environment; ends the process where that fails. */
export function ready(env = {}) {
  const lock = join(root, 'package-lock.json')
  const installed = join(root, 'node_modules', '.package-lock.json')
  if (!existsSync(installed) || statSync(installed).mtimeMs < statSync(lock).mtimeMs) run('npm', ['ci'], env)
  run(process.execPath, [join(root, 'scripts', 'build.mjs')], env)
}
