// Code on the pages is right: TypeScript passes strict settings against the package's own types, JSON and YAML are what
// the product reads, and commands have the names and options that are shown.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parse } from 'yaml'
import { readManifest } from '../../lib/data/manifest.js'
import { parseTrainConfig } from '../../lib/train/config.js'
import { temporaryFolder } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const tracked = spawnSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: root, encoding: 'utf8' })
  .stdout.split('\n')
  .filter((file) => file && existsSync(join(root, file)))
const pages = tracked.filter((file) => file.endsWith('.md'))
const sources = tracked.filter((file) => /\.(ts|mjs|cc|cu|h|py|sh|cmake)$|^CMakeLists\.txt$/.test(file))

interface Block {
  page: string
  line: number
  language: string
  text: string
}
const blocks = pages.flatMap((page): Block[] => {
  const text = readFileSync(join(root, page), 'utf8')
  return [...text.matchAll(/^( *)```(\w*)\n([\s\S]*?)^\1```$/gm)].map(({ 1: indent, 2: language, 3: code, index }) => ({
    page,
    line: text.slice(0, index).split('\n').length + 1,
    language: language!,
    text: code!.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
  }))
})
const of = (language: string): Block[] => blocks.filter((block) => block.language === language)
const name = ({ page, line }: Block): string => `${page}:${line}`

/** Signatures, which docs/gpu-api.md takes from the source, are not programs. */
const isSignature = ({ page, text }: Block): boolean =>
  page === 'docs/gpu-api.md' && /^(function|class|interface|const) \w+/.test(text)

const strict = {
  target: 'es2022',
  module: 'nodenext',
  lib: ['es2023', 'esnext.disposable'],
  types: ['node'],
  noEmit: true,
  strict: true,
  skipLibCheck: true,
  noUncheckedIndexedAccess: true,
  exactOptionalPropertyTypes: true,
  verbatimModuleSyntax: true,
  noPropertyAccessFromIndexSignature: true,
}
const tsc = (...args: string[]): { status: number | null; stdout: string } =>
  spawnSync(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), ...args], { encoding: 'utf8' })

/** What the compiler says of programs that import the package as it is published: lines that begin with a name. */
function errors(programs: ReadonlyMap<string, string>): string[] {
  const folder = temporaryFolder('blocks')
  const modules = join(folder, 'node_modules')
  const installed = join(modules, 'mtransllama')
  mkdirSync(installed, { recursive: true })
  cpSync(join(root, 'package.json'), join(installed, 'package.json'))
  const built = tsc(
    '-p',
    join(root, 'tsconfig.build.json'),
    '--outDir',
    join(installed, 'dist'),
    '--emitDeclarationOnly',
  )
  assert.is(built.status, 0, built.stdout)
  for (const needed of ['@types', 'undici-types', 'zod'])
    symlinkSync(join(root, 'node_modules', needed), join(modules, needed), 'junction')
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  const files = [...programs].map(([shown, text], i) => {
    writeFileSync(join(folder, `${i}.ts`), text)
    return shown
  })
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: strict, include: ['*.ts'] }))
  return tsc('-p', folder, '--pretty', 'false')
    .stdout.split('\n')
    .filter((line) => /error TS/.test(line))
    .map((line) => line.replace(/^.*?(\d+)\.ts\((\d+),/, (_, i, at) => `${files[Number(i)]} (line ${at} of the block,`))
}

test('TypeScript on the pages is a program that passes strict settings against the published types', () => {
  const programs = of('ts').filter((block) => !isSignature(block))
  assert.ok(programs.length >= 4, `${programs.length} programs`)
  for (const block of programs) assert.match(block.text, /from 'mtransllama/, name(block))
  const wrong = "import { openModel } from 'mtransllama'\nexport const model: number = await openModel(7)\n"
  const found = errors(
    new Map([...programs.map((block): [string, string] => [name(block), block.text]), ['wrong', wrong]]),
  )
  assert.ok(
    found.some((line) => line.startsWith('wrong (line 2')),
    `a wrong program is found: ${found.join('\n')}`,
  )
  assert.equal(
    found.filter((line) => !line.startsWith('wrong ')),
    [],
  )
})

test('JSON on the pages is a line of a manifest, and YAML a training configuration', async () => {
  const folder = temporaryFolder('blocks')
  const [json, yaml] = [of('json'), of('yaml')]
  assert.ok(json.length >= 2 && yaml.length >= 2)
  for (const block of json) {
    const sample = JSON.parse(block.text) as { video: string }
    mkdirSync(join(folder, dirname(sample.video)), { recursive: true })
    writeFileSync(join(folder, sample.video), '')
    writeFileSync(join(folder, 'manifest.jsonl'), block.text)
    assert.is((await readManifest(join(folder, 'manifest.jsonl'))).length, 1, name(block))
  }
  for (const block of yaml) parseTrainConfig(parse(block.text), '.', name(block))
})

test('commands on the pages have the scripts, files, commands and options that are shown', async () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const program = new Command()
  for (const file of readdirSync(join(root, 'lib', 'cli'))) {
    if (file === 'main.ts') continue // runs a command when it is imported
    const { register } = (await import(`../../lib/cli/${file.replace(/\.ts$/, '.js')}`)) as {
      register?: (program: Command) => void
    }
    register?.(program)
  }
  const known = new Map(
    program.commands.map((command) => [command.name(), new Set(command.options.flatMap((o) => [o.long, o.short]))]),
  )
  const wrong: string[] = []
  let seen = 0
  const check = (holds: boolean, what: string): void => {
    seen++
    if (!holds) wrong.push(what)
  }
  for (const page of pages) {
    const text = readFileSync(join(root, page), 'utf8')
    for (const [, script] of text.matchAll(/\bnpm run ([\w:-]+)/g))
      check(script! in scripts, `${page}: npm run ${script}`)
    for (const [, file] of text.matchAll(
      /(?:\bnode|--import tsx|npx tsx|\bbash) ((?:[\w-]+\/)+[\w.-]+\.(?:ts|mjs|sh))\b/g,
    ))
      check(existsSync(join(root, file!)), `${page}: ${file}`)
    for (const [, command, rest] of text.matchAll(/(?:npx |`)mtransllama ([a-z-]+)\b([^\n`#]*)/g)) {
      const options = known.get(command!)
      check(options !== undefined, `${page}: mtransllama ${command}`)
      if (!options) continue
      for (const [option] of rest!.replaceAll(/"[^"]*"/g, '').matchAll(/(?<=\s)--[\w-]+/g))
        check(options.has(option), `${page}: mtransllama ${command} ${option}`)
    }
  }
  assert.ok(seen > 50, `${seen} names`)
  assert.equal(wrong, [])
})

test('environment variables on the pages are read by code', () => {
  const read = new Set(
    sources.flatMap((file) =>
      [...readFileSync(join(root, file), 'utf8').matchAll(/\bMT_[A-Z_]+\b/g)].map(([name]) => name),
    ),
  )
  const named = pages.flatMap((page) =>
    [...readFileSync(join(root, page), 'utf8').matchAll(/\bMT_[A-Z_]+\b/g)].map(([name]) => ({ page, name })),
  )
  assert.ok(named.length > 20, `${named.length} names`)
  assert.equal(
    named.filter(({ name }) => !read.has(name)),
    [],
  )
})

test.run()
