// npm run parity:emulated -- --golden DIR: the golden cases with --device cuda, on the addon whose kernels run on the
// CPU.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root } from '../../scripts/setup.mjs'

const node = (args, env = {}) => {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  if (status !== 0) process.exit(status ?? 1)
}
node([join(root, 'scripts', 'build.mjs'), '--cuda=emulated'])
node([join(root, 'bin', 'mtransllama.mjs'), 'parity', '--device', 'cuda', ...process.argv.slice(2)], {
  MT_ADDON: join(root, 'build-emulated', 'Release', 'mtransllama.node'),
})
