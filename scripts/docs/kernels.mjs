// The text of docs/kernels.md: ptxas's report of every kernel (scripts/resources.mjs), the results of every size on the
// emulator (docs/kernels-full.json, by npm run test:full), and the host's times (docs/kernels-host.json, by npm run
// bench:host). npm run docs:kernels writes it, by tsx.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { markdownTable } from '../../lib/report/table.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path) => readFileSync(join(root, path), 'utf8')
const list = (dir, pattern) =>
  existsSync(join(root, dir))
    ? readdirSync(join(root, dir))
        .filter((f) => pattern.test(f))
        .sort()
    : []

/**
 * The committed data of the page: results of every size, times of the host, and results of GPU machines by file name.
 */
export const committed = () => ({
  full: JSON.parse(read('docs/kernels-full.json')),
  host: JSON.parse(read('docs/kernels-host.json')),
  gpu: list('bench/results', /^gpu-.*\.json$/),
})

const operators = list('native/ops', /\.cu$/)
  .map((f) => f.slice(0, -3))
  .filter((name) => existsSync(join(root, 'native', 'ops', `${name}.h`)))

/** The owner of a file's kernels: an operator, or the first part of the name for files that operators share. */
function ownerOf(file) {
  const stem = basename(file, '.cu')
  return file.startsWith('native/ops/')
    ? operators.filter((o) => stem === o || stem.startsWith(`${o}_`)).sort((a, b) => b.length - a.length)[0]
    : `${dirname(file).slice('native/'.length)}/${stem.split('_')[0]}`
}

/** The first sentence of a header's comment. */
const about = (header) =>
  /^(?:\/\/.*\n)+/
    .exec(read(header))[0]
    .replace(/^\/\/ ?/gm, '')
    .replace(/\n/g, ' ')
    .split(/(?<=[.])\s(?=[A-Z])/)[0]
    .split('   ')[0]
    .trim()
    .replace(/(?<![.])$/, '.')

const figure = (x) =>
  x === 0
    ? '0'
    : x === null
      ? 'not a number'
      : x
          .toExponential(1)
          .replace('.0e', 'e')
          .replace('e', '·10^')
          .replace('^+', '^')
          .replace(/\^(-?\d+)/, (_, n) => `<sup>${n.replace('-', '−')}</sup>`)
const worst = (w) => (!w ? '–' : w.error === 0 ? '0' : `${figure(w.error)}: ${w.case}`)
const count = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`
const sum = (entries, f) => entries.reduce((n, e) => n + f(e), 0)

function kernelTable(kernels, archs) {
  const names = [...new Set(kernels.map((k) => k.kernel))]
  return markdownTable(
    ['kernel', ...archs.flatMap((a) => [`${a}: registers`, 'shared', 'spilled'])],
    names.map((name) => [
      `\`${name}\``,
      ...archs.flatMap((arch) => {
        const k = kernels.find((x) => x.kernel === name && x.arch === arch)
        return k ? [k.registers, k.shared, k.stores || k.loads ? `${k.stores} + ${k.loads}` : 0] : ['–', '–', '–']
      }),
    ]),
  )
}

/** What an operator leaves to the kernels of a file that operators share. */
const leaves = {
  matmul: 'Its products are formed',
  attention: 'Its softmax is formed',
  strided: 'Its elements are moved',
}
const resultTable = (results) =>
  markdownTable(
    [
      'dtype',
      'threads',
      'cases',
      'failures',
      'output, from the CPU’s',
      'gradient, from the CPU’s',
      'output, from float64',
      'date',
      'commit',
    ],
    results.map((e) => [
      e.dtype,
      e.order,
      e.cases,
      e.failures.length,
      worst(e.forward),
      worst(e.gradient),
      worst(e.float64),
      e.date,
      e.commit,
    ]),
  )
const failures = (results) =>
  results.flatMap((e) =>
    e.failures.map(
      (f) =>
        `- ${e.dtype}, ${e.order}: ${f.case}: ${f.what}${f.error === null ? '' : ` is ${f.error}, not ${f.limit}`}`,
    ),
  )

/** What the host needs for one of a row's: median, then the JavaScript thread's share. */
const hostTime = (row) =>
  row ? `${row.ms.median.toPrecision(3)}${row.threadMs === null ? '' : ` (${row.threadMs.toPrecision(3)})`}` : '–'
const hostCount = (row, what) => (row ? row[what] || '–' : '–')

/** The host's section, of docs/kernels-host.json. */
export function hostSection({ sizes, before, after }) {
  const { B, T, text, prompt } = sizes
  const where = (run) => `commit ${run.commit.slice(0, 10)}, ${run.date}${run.note ? `, ${run.note}` : ''}`
  const pairs = after.rows.map((row) => [before.rows.find((r) => r.name === row.name), row])
  return [
    '## The host’s side',
    `What JavaScript, the border and the queue need, on the emulator’s null device, which checks and counts every call and computes nothing (\`MT_EMULATOR=null\`; \`npm run bench:host\`): InstructBLIP over a LLaMA of 7 B in bfloat16 at full size, features given, B=${B}, T=${T}, ${text} tokens of text for the Q-Former and ${prompt} for the language model, full adapter; decoding of one sample. Medians in milliseconds, with what the JavaScript thread itself spent on a processor in brackets: ${after.machine.cpu}, ${after.machine.cores} cores, with other work on them.`,
    markdownTable(
      ['', 'goal, ms', 'before, ms', 'now, ms', 'launches before', 'now', 'graph nodes before', 'now'],
      pairs.map(([b, a]) => [
        a.name,
        a.goalMs,
        hostTime(b),
        hostTime(a),
        hostCount(b, 'launches'),
        hostCount(a, 'launches'),
        hostCount(b, 'nodes'),
        hostCount(a, 'nodes'),
      ]),
    ),
    `Before: ${where(before)}. Now: ${where(after)}. Launches are those that JavaScript asks for one by one; a graph’s nodes are launched by the driver.`,
  ]
}

/** The page, of { nvcc, archs, kernels } as scripts/resources.mjs finds them and what is committed. */
export function page({ nvcc, archs, kernels, full, host, gpu }) {
  const { sizes, limits, results } = full
  const state = gpu.length
    ? 'executed on the emulator; what ran on a GPU is in the results listed below'
    : 'executed on the emulator, not yet on a GPU'
  const spilling = kernels.filter((k) => k.stores || k.loads)
  const kinds = new Set(kernels.map((k) => `${k.file} ${k.kernel}`)).size
  const section = (title, text, own, ran) => [
    `## ${title}`,
    text,
    ...(own.length ? [`Compiled for ${archs.join(' and ')}:`, kernelTable(own, archs)] : []),
    ...(ran.length
      ? ['Executed on the emulator:', resultTable(ran), ...(failures(ran).length ? [failures(ran).join('\n')] : [])]
      : []),
  ]
  const shared = [...new Set(kernels.map((k) => ownerOf(k.file)))].filter((o) => o.startsWith('kernels/'))
  const users = (name) => operators.filter((o) => read(`native/ops/${o}.cu`).includes(`#include "${name}.h"`))
  return `${[
    '# CUDA kernels',
    'Written by `npm run docs:kernels` from what nvcc says, from `docs/kernels-full.json`, which `npm run test:full` writes, and from `docs/kernels-host.json`, which `npm run bench:host` writes; not by hand.',
    `State: ${state}.`,
    'A claim about these kernels rests on one of three proofs:',
    markdownTable(
      ['proof', 'shows', 'state'],
      [
        [
          'compiled',
          'that nvcc takes the source, and what a kernel needs of a multiprocessor: registers of a thread, bytes of static shared memory of a block, bytes that spill',
          `nvcc ${nvcc}: ${kinds} kernels for ${archs.join(' and ')}, ${spilling.length ? `${new Set(spilling.map((k) => k.kernel)).size} of them spill` : 'none of them spills'}`,
        ],
        [
          'executed on the emulator',
          'that the same source, run thread by thread on the CPU, gives what the CPU twin and float64 give',
          `${sum(results, (e) => e.cases)} runs of a case, the sizes ${sizes.join(', ')} in every dimension where they apply, ${count(
            sum(results, (e) => e.failures.length),
            'failure',
          )}; besides, \`npm test\` runs the operators’ own list, training and the whole model there`,
        ],
        [
          'run on a GPU',
          'that hardware does the same, and how fast',
          gpu.length ? gpu.map((f) => `[${f}](../bench/results/${f})`).join(', ') : 'not yet',
        ],
      ],
    ),
    `Errors are ‖a − b‖/‖b‖. In float32 an output may be ${figure(limits.float32.forward)} from the CPU’s and from float64’s, a gradient ${figure(limits.float32.gradient)} from the CPU’s; in bfloat16 either may be ${figure(limits.apart)} from the CPU’s (a result of one number, which may be a sum that cancels, ${figure(limits.bfloat16.forward)} and ${figure(limits.bfloat16.gradient)}) and an output ${figure(limits.bfloat16.forward)} from float64’s. Where a query of attention sees no key its output is 0 by definition, which float64’s formula does not give: such cases are held against the CPU’s alone. Below are the largest errors and their cases. “Threads” is the order in which the emulator runs them. Shared memory that the host asks for at launch is not counted.`,
    ...hostSection(host),
    ...operators.flatMap((o) => {
      const own = kernels.filter((k) => ownerOf(k.file) === o)
      const lent = shared.filter((s) => users(s).includes(o))
      return section(
        o,
        [
          about(`native/ops/${o}.h`),
          ...lent.map((s) => `${leaves[basename(s)]} by [${s}](#${s.replaceAll('/', '')}).`),
        ].join(' '),
        own,
        results.filter((e) => e.operator === o),
      )
    }),
    ...shared.flatMap((s) => {
      const by = users(s)
      return section(
        s,
        `${about(`native/${s}.h`)} ${by.length ? `Used by ${by.join(', ')}.` : 'No operator uses it: tests do.'}`,
        kernels.filter((k) => ownerOf(k.file) === s),
        [],
      )
    }),
  ].join('\n\n')}\n`
}

/** A page without what another nvcc may count otherwise: its own version, registers, shared memory. */
export const comparable = (text) =>
  text
    .replace(/nvcc [\d.]+/g, 'nvcc')
    .split('\n')
    .map((line) =>
      /^\| `/.test(line)
        ? line
            .split(' | ')
            .map((cell, i) => (i > 0 && i % 3 !== 0 ? '' : cell))
            .join(' | ')
        : line,
    )
    .join('\n')
