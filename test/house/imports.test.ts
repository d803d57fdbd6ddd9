// Imports between rooms, read from the import lines: the tables of lib/README.md and native/README.md are the rules.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string): string => readFileSync(join(root, path), 'utf8')

/** The rooms of a folder's README.md, in order, each with those that it may import besides itself. */
function table(folder: string): Map<string, string[]> {
  const rows = read(`${folder}/README.md`).matchAll(/^\| ([\w/]+) \| .* \|([^|]*)\|$/gm)
  const named = [...rows].map(([, room, others]): [string, string[]] => [
    room!,
    others!
      .split(',')
      .map((name) => name.trim())
      .filter(Boolean),
  ])
  return new Map(named.slice(1)) // the first row is the head
}

function* files(folder: string, ending: RegExp): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* files(path, ending)
    else if (ending.test(entry.name)) yield path.replaceAll('\\', '/')
  }
}

/** The project's own files that a file imports or includes. */
function imports(path: string): string[] {
  if (path.startsWith('native/'))
    return [...read(path).matchAll(/^\s*#include\s+"([^"]+)"/gm)].map(([, header]) => `native/${header}`)
  const found = read(path).matchAll(
    /(?:^|\n)(?:import|export)\b[^;'"]*?from '(\.[^']+)'|\bimport\('(\.[^']+)'\)|(?:^|\n)import '(\.[^']+)'/g,
  )
  return [...found].map(([, from, lazy, bare]) =>
    normalize(join(dirname(path), (from ?? lazy ?? bare)!))
      .replaceAll('\\', '/')
      .replace(/\.js$/, '.ts'),
  )
}

const houses = [
  { folder: 'lib', sources: [...files('lib', /\.ts$/)], rooms: table('lib') },
  { folder: 'native', sources: [...files('native', /\.(cc|h|cu)$/)], rooms: table('native') },
]

/** The room of a file: its longest path that the table knows. */
function room(folder: string, rooms: Map<string, string[]>, path: string): string | undefined {
  let name = relative(folder, path)
    .replaceAll('\\', '/')
    .replace(/\.\w+$/, '')
  while (!rooms.has(name) && name.includes('/')) name = name.slice(0, name.lastIndexOf('/'))
  return rooms.has(name) ? name : undefined
}

for (const { folder, sources, rooms } of houses) {
  test(`${folder}/README.md lets no room import a later one, and names no room that does not exist`, () => {
    const order = [...rooms.keys()]
    assert.ok(order.length >= 8)
    for (const [name, others] of rooms)
      for (const other of others) assert.ok(order.slice(0, order.indexOf(name)).includes(other), `${name}: ${other}`)
    const lived = new Set(sources.map((path) => room(folder, rooms, path)))
    assert.equal(
      order.filter((name) => !lived.has(name)),
      [],
    )
  })

  test(`every file of ${folder} has a room in the table, and imports what the table says`, () => {
    const wrong: string[] = []
    let seen = 0
    for (const path of sources) {
      const own = room(folder, rooms, path)
      if (!own) wrong.push(`${path}: a room that the table does not know`)
      for (const target of imports(path)) {
        seen++
        const other = target.startsWith(`${folder}/`) ? room(folder, rooms, target) : undefined
        if (!other) wrong.push(`${path} imports ${target}, which is in no room`)
        else if (own && own !== other && !rooms.get(own)!.includes(other))
          wrong.push(`${path} imports ${target}: ${own} may import ${rooms.get(own)!.join(', ')}`)
      }
    }
    assert.ok(seen > 100)
    assert.equal(wrong, [])
  })

  test(`no file of ${folder} imports itself through others`, () => {
    const circles: string[] = []
    const done = new Set<string>()
    const walk = (path: string, way: string[]): void => {
      if (way.includes(path)) circles.push([...way.slice(way.indexOf(path)), path].join(' → '))
      else if (!done.has(path)) {
        for (const target of imports(path)) walk(target, [...way, path])
        done.add(path)
      }
    }
    const known = new Set(sources)
    for (const path of sources) {
      for (const target of imports(path)) assert.ok(known.has(target), `${path} imports ${target}, which is not there`)
      walk(path, [])
    }
    assert.equal(circles, [])
  })
}

test('the oracle imports nothing of lib', () => {
  for (const path of files('test/oracle', /(?<!\.test)\.ts$/))
    for (const target of imports(path)) assert.ok(target.startsWith('test/oracle/'), `${path} imports ${target}`)
})

test('native: operators never include each other, the backends never each other, and Node-API stays in binding', () => {
  const wrong: string[] = []
  for (const path of files('native', /\.(cc|h|cu)$/)) {
    const [, own] = /^native\/(.*)\.\w+$/.exec(path)!
    for (const [, mark, header] of read(path).matchAll(/^\s*#include\s+(["<])([^">]+)[">]/gm)) {
      const foreign =
        mark === '<'
          ? !path.startsWith('native/binding/') && /napi|node_api|uv\.h|v8/.test(header!)
          : (path.startsWith('native/ops/') && /^ops\//.test(header!) && header !== `${own}.h`) ||
            (path.startsWith('native/kernels/cpu/') && /^kernels\/cuda\//.test(header!)) ||
            (path.startsWith('native/kernels/cuda/') && /^kernels\/cpu\//.test(header!)) ||
            (/^native\/ops\/.*\.cu$/.test(path) && /^kernels\/cpu\//.test(header!)) ||
            (/^native\/ops\/.*\.cc$/.test(path) && /^kernels\/cuda\//.test(header!))
      if (foreign) wrong.push(`${path} includes ${header}`)
    }
  }
  assert.equal(wrong, [])
})

test.run()
