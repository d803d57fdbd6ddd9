// npm run docs:api [-- --out FOLDER]: writes the API reference to docs/api, in Markdown, from the docstrings. TypeDoc and
// the TypeScript that it needs are in scripts/docs/api, installed at the first call. The output is not committed
// (docs/README.md says why). A link of a docstring that leads nowhere is an error; test/house/docstrings.test.ts finds
// it without TypeDoc, test/house/reference.test.ts runs this.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { argv, exit } from 'node:process'
import { fileURLToPath } from 'node:url'
import { entries } from './entries.js'

const tools = join(dirname(fileURLToPath(import.meta.url)), 'api')
const root = join(tools, '..', '..', '..')

function run(command: string, args: string[], cwd: string): void {
  const { status } = spawnSync(command, args, { cwd, stdio: 'inherit', shell: process.platform === 'win32' })
  if (status !== 0) exit(status ?? 1)
}

if (!existsSync(join(tools, 'node_modules', 'typedoc'))) run('npm', ['ci'], tools)
run(
  process.execPath,
  [
    join(tools, 'node_modules', 'typedoc', 'bin', 'typedoc'),
    '--options',
    join(tools, 'typedoc.json'),
    ...entries.values(),
    ...argv.slice(2),
  ],
  root,
)
