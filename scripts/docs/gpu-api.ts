// npm run docs:gpu-api: writes docs/gpu-api.md from the docstrings of lib/tensor and lib/ops and the contracts in
// native/ops/*.h; test/house/gpu-api.test.ts compares them.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string): string => readFileSync(`${root}${path}`, 'utf8')

/** The text of a documentation comment on one line a paragraph, with names for links. */
function prose(comment: string): string {
  const lines = comment
    .replace(/^\/\*\*|\*\/$/g, '')
    .split('\n')
    .map((line) => line.replace(/^\s*\* ?/, '').trim())
  return lines
    .join('\n')
    .trim()
    .replace(/\{@link (?:\w+\.)?(\w+)\}/g, '`$1`')
    .replace(/\n@param (\w+) /g, '\n\n`$1`: ')
    .replace(/\n@throws /g, '\n\nThrows ')
    .replace(/([^\n])\n(?!\n)/g, '$1 ')
    .replace(/\n{3,}/g, '\n\n')
}

/** A declaration from `start` on, until its brackets are closed: of a function without its body. */
function declaration(source: string, start: number, body: boolean): string {
  let depth = 0
  for (let i = start; i < source.length; i++) {
    const c = source[i]!
    if ('([{'.includes(c)) {
      if (!body && c === '{' && depth === 0 && source[i + 1] === '\n') return source.slice(start, i).trim()
      depth++
    } else if (')]}'.includes(c) && --depth === 0 && body && c === '}') return source.slice(start, i + 1)
    else if (c === '\n' && depth === 0 && !body && /[^,(=|]$/.test(source.slice(start, i)))
      return source.slice(start, i)
  }
  throw new Error(`a declaration that does not end: ${source.slice(start, start + 80)}`)
}

const code = (text: string): string => `\`\`\`ts\n${text}\n\`\`\``
const COMMENT = String.raw`(\/\*\*(?:(?!\*\/)[^])*\*\/)`

interface Exported {
  kind: string
  name: string
  text: string
}

/** What a module exports, documented: functions, classes with their public members, interfaces, constants. */
export function exported(path: string): Exported[] {
  const source = read(path)
  const pattern = new RegExp(
    String.raw`(?:^${COMMENT}\n)?^export (?:async )?(function|class|interface|const) (\w+)`,
    'gm',
  )
  return [...source.matchAll(pattern)].map(({ 0: all, 1: comment, 2: kind, 3: name, index }) => {
    const start = index + all.lastIndexOf('export ')
    const about = comment === undefined ? '' : `${prose(comment)}\n`
    if (kind === 'class') return { kind, name: name!, text: `${about}\n${members(declaration(source, start, true))}` }
    const text = declaration(source, start, kind === 'interface')
      .replace(/^export (async )?/, '')
      .replace(/ =>[^]*/, (rest) => (kind === 'const' ? '' : rest))
    return { kind: kind!, name: name!, text: `${code(text)}\n\n${about}`.trim() }
  })
}

/** The documented members of a class. */
function members(source: string): string {
  const pattern = new RegExp(String.raw`^  ${COMMENT}\n  (?!private |(?:readonly )?#|constructor|\[)`, 'gm')
  return [...source.matchAll(pattern)]
    .map((match) => {
      const text = declaration(source, match.index + match[0].length, false)
      return `- \`${text.replace(/\s+/g, ' ').replace(/\( /g, '(').replace(/,? \)/g, ')')}\`: ${prose(match[1]!).replace(/\n+/g, ' ')}`
    })
    .join('\n')
}

/** A header's account of an operator: the equations on top, and the contract of each native function. */
interface Header {
  path: string
  equations: string
  contracts: { names: string[]; text: string }[]
}

function header(path: string): Header {
  const source = read(path)
  const equations = /^(?:\/\/.*\n)+/
    .exec(source)![0]
    .replace(/^\/\/ ?/gm, '')
    .trimEnd()
  const blocks = source.matchAll(/((?:^\/\/\/.*\n)+)((?:^void check_[^;]*;\n)+)/gm)
  return {
    path,
    equations,
    contracts: [...blocks].map(([, doc, declarations]) => ({
      names: [...declarations!.matchAll(/check_(\w+)\(/g)].map(([, name]) => name!),
      text: doc!.replace(/^\/\/\/ ?/gm, '').trimEnd(),
    })),
  }
}

const entry = read('lib/public/tensor.ts')
const isPublic = (name: string): boolean => new RegExp(`\\b${name}\\b`).test(entry)

/** An operator file: what of it is public, and the native functions that it calls. */
function operators(path: string, headers: readonly Header[]): string {
  const called = new Set([...read(path).matchAll(/\.ops\.(\w+)/g)].map(([, name]) => name!))
  const parts = exported(path)
    .filter(({ name }) => isPublic(name))
    .map(({ name, text }) => `#### \`${name}\`\n\n${text}`)
  for (const { path: file, equations, contracts } of headers) {
    const own = contracts.filter(({ names }) => names.some((name) => called.has(name)))
    if (!own.length) continue
    const lines = own.map(({ names, text }) => `${names.join(', ')}\n${text.replace(/^/gm, '  ')}`)
    parts.push(`Contract, from [${file}](../${file}):\n\n\`\`\`text\n${equations}\n\n${lines.join('\n\n')}\n\`\`\``)
  }
  return parts.join('\n\n')
}

const list = (folder: string, ending: string): string[] =>
  readdirSync(`${root}${folder}`)
    .filter((name) => name.endsWith(ending))
    .sort()
    .map((name) => `${folder}/${name}`)

const TITLES: Record<string, string> = {
  adamw: 'AdamW',
  argmax: 'Argmax',
  attention: 'Attention',
  'cache-append': 'Cache of keys and values',
  columns: 'Columns of a packed tensor',
  copy: 'Copies, conversions, constants',
  'cross-entropy': 'Cross-entropy',
  elementwise: 'Elementwise',
  embedding: 'Embedding',
  layernorm: 'LayerNorm',
  linear: 'Linear layers',
  lora: 'LoRA',
  patchify: 'Patches of an image',
  random: 'Random numbers',
  reduce: 'Sums and means',
  rmsnorm: 'RMSNorm',
  rope: 'Rotary positions',
  router: 'Router of the masks',
  'silu-mul': 'SwiGLU product',
  'source-attention': 'Attention on a frozen source',
  views: 'Shapes',
}

/** The exports of a module under the given names, as sections. */
const named = (path: string, ...names: string[]): string => {
  const all = exported(path)
  return names
    .map((name) => {
      const found = all.find((e) => e.name === name)
      if (!found) throw new Error(`${path} exports no ${name}`)
      return `#### \`${name}\`\n\n${found.text.trim()}`
    })
    .join('\n\n')
}

/** docs/gpu-api.md */
export function gpuApiPage(): string {
  const headers = list('native/ops', '.h').map(header)
  const files = list('lib/ops', '.ts')
  return `<!-- Written by npm run docs:gpu-api from lib/tensor, lib/ops and native/ops; do not edit. -->

# Computing on a GPU: \`mtransllama/tensor\`

Tensors, devices and operators, on the CPU and on CUDA devices, with gradients. The models of \`mtransllama\` are built of
these. Four programs to start from, run by the tests on the CPU and on CUDA:

- [factorized attention](../examples/gpu/factorized-attention.ts): over space, then over time, forward and backward
- [the channel swap](../examples/gpu/channel-swap.ts): by stride and by copy, with equal results
- [LoRA](../examples/gpu/lora.ts): forward and backward
- [a training step](../examples/gpu/graph-step.ts): forward, backward and AdamW, captured as a CUDA graph and replayed

\`\`\`ts
import { attention, backward, chooseDevice, Random, scope } from 'mtransllama/tensor'

const { device } = chooseDevice('auto')                        // cuda:0 where there is one, else cpu
await scope(async () => {                                       // frees what is made inside
  const x = new Random(1, device).normal([2, 8, 32, 768]).requireGrad()
  const y = attention(x, x, x, { heads: 12, over: 1 })          // over time: a change of strides
  backward(y, new Random(2, device).normal([2, 8, 32, 768]))    // the gradient of each element of y
  console.log(await x.grad!.data())
  x.grad!.dispose()
})
\`\`\`

## Devices

A tensor lies on the CPU or on one CUDA device, and an operator runs where its inputs lie; nothing else names a device.
Tensors of two devices never mix silently: an operator on both throws, and \`tensor.to(device)\` moves one. An addon
without CUDA kernels, and a machine without a driver, have the CPU alone; \`devices().cuda.reason\` says why.

${named('lib/tensor/device.ts', 'chooseDevice', 'devices', 'Devices', 'CudaDevice')}

## Queue and streams

Calls return at once. On the CPU they run one after another in a queue of the calling thread, each on all threads of the
backend; on a CUDA device they go to one stream for each thread of JavaScript and device. Within a thread everything
happens in the order of the calls, so that an operator always reads what was written before it. \`await tensor.data()\`,
\`await tensor.item()\` and \`await sync()\` wait without blocking the event loop; \`dataBlocking()\` and \`syncBlocking()\`
block it. An argument that does not fit throws at the call; a failure in the queue (an id outside a table, memory that
ran out) rejects the next wait, with the operator's name. \`MT_CUDA_SYNC=1\` waits for each operator, so that one that
faults is named.

${named('lib/tensor/runtime.ts', 'sync', 'syncBlocking', 'threads')}

## Tensors and memory

The elements lie in native memory. A tensor is freed by its scope, by \`dispose()\` or by \`using\`; the garbage collector
frees what was forgotten, at a time of its own (\`MT_LEAKS=1\` reports it). A device keeps freed blocks for reuse; \`deviceMemory(device)\` has the counters. Running out names the operator and the bytes, and leaves the device
usable.

${named('lib/tensor/tensor.ts', 'tensor', 'empty', 'Tensor')}

${named('lib/tensor/runtime.ts', 'memory', 'deviceMemory', 'resetPeak', 'releaseCached')}

${named('lib/tensor/scope.ts', 'scope', 'keep')}

## Gradients

\`tensor.requireGrad()\` marks a leaf. Operators on it are recorded; where nothing needs a gradient nothing is. Gradients
of leaves lie in \`tensor.grad\` and outlive scopes. Contributions are summed in the order of the records, so that a rerun
gives the same bits.

${named('lib/tensor/tape.ts', 'backward', 'noGrad', 'recompute', 'record', 'recordAll', 'recording')}

## CUDA graphs

${named('lib/tensor/cuda-graph.ts', 'Graph')}

## Profiles

${named('lib/tensor/profile.ts', 'profile', 'startProfile', 'stopProfile', 'Profile', 'ProfileEvent', 'ProfileRow')}

## Operators

Dtypes: activations are float32, or bfloat16 together; sums, softmax and normalisation are in float32 either way.
Weights of linear layers and tables may be float16 too. Parameters that are trained, and their gradients, are float32.
Inputs of any strides are accepted; where a kernel wants contiguous memory the operator copies. Kernels take any size,
use no float atomics, and give the same bits in every rerun. Each contract below is the comment of the C++ header that
both backends, CPU and CUDA, implement: \`Out\` names what is written, gradients have the name of their tensor after a d.

${files.map((path) => `### ${TITLES[path.slice('lib/ops/'.length, -'.ts'.length)] ?? path}\n\n${operators(path, headers)}`).join('\n\n')}

## An optimiser

${named('lib/train/optimizer.ts', 'AdamW', 'AdamWOptions', 'Parameter', 'Outcome')}
`
}

if (import.meta.filename === process.argv[1]) writeFileSync(`${root}docs/gpu-api.md`, gpuApiPage())
