// npm run bench: installs and builds what is missing, then runs main.ts.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { ready, root } from '../scripts/setup.mjs'

ready()
const { status, signal } = spawnSync(
  process.execPath,
  ['--import', 'tsx', join(root, 'bench/main.ts'), ...process.argv.slice(2)],
  { cwd: root, stdio: 'inherit' },
)
process.exit(signal ? 130 : (status ?? 1))
