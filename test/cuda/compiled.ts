// The addon, compiled by nvcc for the architectures that tests use: the one in `build` where it is such a build, as on a
// fresh clone, else one in build-cuda.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { tested } from '../../scripts/architectures.mjs'
import { ofBuild } from '../../scripts/resources.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Compiles what is out of date. Returns the folder, the exit status and the output. */
export function compiled(): { folder: string; status: number | null; out: string } {
  const options = join(root, 'build', 'options.json')
  const fits =
    existsSync(options) &&
    (JSON.parse(readFileSync(options, 'utf8')) as { archs?: string }).archs === tested &&
    ofBuild(join(root, 'build')) !== null
  const folder = fits ? 'build' : 'build-cuda'
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['scripts/build.mjs', ...(fits ? [] : ['--cuda=on', `--archs=${tested}`]), `--out=${folder}`],
    {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, MT_CUDA: undefined, MT_CUDA_ARCHS: undefined },
      maxBuffer: 1 << 28,
    },
  )
  return { folder: join(root, folder), status, out: `${stdout}${stderr}` }
}
