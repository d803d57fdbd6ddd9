// Formats the repository's sources: Biome for TypeScript and JavaScript, clang-format for C++ and CUDA.
// Arguments: --check changes nothing and fails where something would change; files (all tracked sources where none is
// given).
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const check = process.argv.includes('--check')
const named = process.argv.slice(2).filter((arg) => arg !== '--check')

const tracked = () =>
  spawnSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: root, encoding: 'utf8' }).stdout.split('\n')
const files = (named.length > 0 ? named : tracked()).filter((file) => existsSync(join(root, file)))
const having = (ends) => files.filter((file) => ends.test(file))

const { resolve } = createRequire(import.meta.url)
const tools = [
  [
    resolve('@biomejs/biome/bin/biome'),
    having(/\.(ts|mts|mjs)$/),
    ['format', '--no-errors-on-unmatched', check ? '--max-diagnostics=20' : '--write'],
  ],
  [
    resolve('clang-format-node/build/cli.js'),
    having(/\.(cc|cu|h)$/),
    check ? ['--dry-run', '-Werror', '--ferror-limit=20'] : ['-i'],
  ],
]
let failed = false
for (const [tool, sources, options] of tools) {
  if (sources.length === 0) continue
  const { status } = spawnSync(process.execPath, [tool, ...options, ...sources], { cwd: root, stdio: 'inherit' })
  if (status !== 0) failed = true
}
if (failed && check) console.error('Run `npm run format`, and commit what it changes.')
process.exit(failed ? 1 : 0)
