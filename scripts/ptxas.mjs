// node scripts/ptxas.mjs nvcc …: compiles, and writes ptxas's report beside the object, as OBJECT.ptxas. CMake uses it
// as nvcc's launcher; scripts/resources.mjs reads the reports.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'

const [nvcc, ...args] = process.argv.slice(2)
const { status, error, stdout, stderr } = spawnSync(nvcc, [...args, '-Xptxas', '-v'], {
  encoding: 'utf8',
  maxBuffer: 1 << 28,
})
// Its lines begin so; functions' sizes are on indented ones.
const said = (line) => /^ptxas info|^ +\d+ bytes stack frame/.test(line)
const lines = `${stdout ?? ''}${stderr ?? ''}`.split('\n')
const object = args[args.lastIndexOf('-o') + 1]
if (status === 0) writeFileSync(`${object}.ptxas`, lines.filter(said).join('\n'))
process.stderr.write(
  lines
    .filter((line) => line && !said(line))
    .map((line) => `${line}\n`)
    .join(''),
)
if (error) console.error(error.message)
process.exitCode = status ?? 1
