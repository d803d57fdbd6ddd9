// node test/native/sanitize.mjs [FILE...]: runs the tests of the native interface, of tensors and of operators, on the CPU
// and on the CUDA emulator, with an addon that is built with the address and undefined-behaviour sanitizers. Needs cmake
// and g++.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const node = (args, env = {}) =>
  spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })

const built = node([join(root, 'scripts', 'build.mjs'), '--out=build-sanitize', '--cuda=emulated', '--sanitize'])
if (built.status !== 0) process.exit(built.status ?? 1)

const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()
const env = {
  MT_ADDON: join(root, 'build-sanitize', 'Release', 'mtransllama.node'),
  MT_EMULATED: join(root, 'build-sanitize', 'Release', 'mtransllama.node'),
  LD_PRELOAD: `${library('libasan.so')} ${library('libubsan.so')}`,
  // Node itself leaks at exit, and requests more memory than there is to find out how much there is.
  ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
}
// Not leak.test.ts: the sanitizers retain freed memory for a while. Not build.test.ts and resources.test.ts: they run
// compilers, which do not work with preloaded sanitizers.
const LEFT_OUT = ['leak.test.ts', 'build.test.ts', 'resources.test.ts']
const folders = ['test/native', 'test/tensor', 'test/ops', 'test/cuda']
const files =
  process.argv.length > 2
    ? process.argv.slice(2)
    : folders
        .filter((f) => existsSync(join(root, f)))
        .flatMap((f) =>
          readdirSync(join(root, f))
            .filter((n) => n.endsWith('.test.ts') && !LEFT_OUT.includes(n))
            .map((n) => join(f, n)),
        )
const failed = files.filter((file) => {
  console.log(`== ${file}`)
  return node(['--import', 'tsx', file], env).status !== 0
})
console.log(
  failed.length
    ? `failed under the sanitizers: ${failed.join(', ')}`
    : `${files.length} files passed under the sanitizers`,
)
process.exit(failed.length ? 1 : 0)
