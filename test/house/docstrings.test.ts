// Every public name has a docstring, and so has every method of a public class or interface; what their docstrings link
// to is public as well. `npm run docs:api` writes the API reference from them. Asks TypeScript's own API, whose version
// the lock file fixes.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { SyntaxKind } from 'typescript/unstable/ast'
import { API, SymbolFlags, type Checker, type Symbol as Name } from 'typescript/unstable/sync'
import { entries } from '../../scripts/docs/entries.js'
import { temporaryFolder } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Public methods and accessors: what a caller can call. */
const methods = (name: Name): Name[] =>
  [...name.getMembers().values(), ...name.getExports().values()].filter(
    (member) =>
      member.flags & (SymbolFlags.Method | SymbolFlags.Accessor) &&
      !/^(__|#)|^\[/.test(member.name) &&
      !member.name.includes('#'),
  )

/** A name's documentation comments as they are written. */
const comments = (name: Name): string =>
  name.declarations
    .map((declaration) => {
      const node = declaration.resolve()
      // The comment of a constant stands before the statement around it.
      const documented = node?.kind === SyntaxKind.VariableDeclaration ? node.parent.parent : node
      return /^\s*\/\*\*[^]*?\*\//.exec(documented?.getFullText() ?? '')?.[0] ?? ''
    })
    .join('\n')

interface Found {
  /** Public names without a docstring, as `entry: name (file)`. */
  missing: string[]
  /** The links of docstrings, each with the name that it stands at and that name's members. */
  links: { at: string; to: string; members: Set<string> }[]
  /** The members of public names, inherited ones too. */
  members: Map<string, Set<string>>
  seen: number
}

function docstrings(checker: Checker, module: Name, entry: string): Found {
  const missing: string[] = []
  const links: Found['links'] = []
  const membersOf: Found['members'] = new Map()
  let seen = 0
  const link = (name: Name, shown: string, members: Set<string>): void => {
    for (const [, to] of comments(name).matchAll(/\{@link[\s*]+([\w.]+)/g))
      links.push({ at: `${entry}: ${shown}`, to: to!, members })
  }
  const inspect = (name: Name, shown: string): void => {
    seen++
    if (!checker.getDocumentationCommentOfSymbol(name).trim())
      missing.push(`${entry}: ${shown} (${name.declarations[0]?.path.slice(root.length)})`)
  }
  for (const exported of checker.getExportsOfModule(module)) {
    const name = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
    inspect(name, exported.name)
    const all = name.flags & (SymbolFlags.Class | SymbolFlags.Interface) ? [...name.getMembers().values()] : []
    const members = new Set(all.map((member) => member.name))
    const type = name.flags & SymbolFlags.Type ? checker.getDeclaredTypeOfSymbol(name) : undefined
    const inherited = type ? checker.getPropertiesOfType(type).map((member) => member.name) : []
    membersOf.set(exported.name, new Set([...inherited, ...name.getExports().keys()]))
    for (const member of methods(name)) inspect(member, `${exported.name}.${member.name}`)
    link(name, exported.name, members)
    for (const member of all) link(member, `${exported.name}.${member.name}`, members)
  }
  return { missing, links, members: membersOf, seen }
}

interface Report {
  missing: string[]
  /** Links that lead to nothing public, as `entry: name links to …`. */
  broken: string[]
  links: number
  /** Public names by entry, methods included. */
  seen: Map<string, number>
}

/** Inspects a project's entries: names as users import them, and their files. */
function inspect(folder: string, files: ReadonlyMap<string, string>): Report {
  const api = new API({ cwd: folder })
  try {
    const [project] = api.updateSnapshot({ openProjects: [join(folder, 'tsconfig.json')] }).getProjects()
    assert.ok(project)
    const report: Report = { missing: [], broken: [], links: 0, seen: new Map() }
    const names = new Map<string, Set<string>>()
    const all: Found['links'] = []
    for (const [entry, file] of files) {
      const source = project.program.getSourceFile(join(folder, file))
      assert.ok(source, `${entry}: package.json names ${file}, which is not there`)
      const module = project.checker.getSymbolAtLocation(source)
      assert.ok(module, `${file} exports nothing`)
      const { missing, links, members, seen } = docstrings(project.checker, module, entry)
      report.missing.push(...missing)
      report.seen.set(entry, seen)
      all.push(...links)
      for (const [name, own] of members) names.set(name, own)
    }
    const leads = ({ to, members }: Found['links'][number]): boolean => {
      const [name, member] = to.split('.') as [string, string?]
      return members.has(to) || (names.has(name) && (member === undefined || names.get(name)!.has(member)))
    }
    report.links = all.length
    report.broken = all.filter((link) => !leads(link)).map(({ at, to }) => `${at} links to ${to}`)
    return report
  } finally {
    api.close()
  }
}

test('every public name, and every method of one, has a docstring, whose links lead to public names', () => {
  const { missing, broken, links, seen } = inspect(root, entries)
  assert.ok(seen.size >= 1)
  for (const [entry, count] of seen) assert.ok(count > 10, `${entry} has ${count} public names`)
  assert.ok(links > 10, `${links} links`)
  assert.equal(missing, [])
  assert.equal(broken, [])
})

test('names without a docstring, and links that lead nowhere, are told', () => {
  const folder = temporaryFolder('docstrings')
  writeFileSync(join(folder, 'tsconfig.json'), '{ "files": ["index.ts"] }')
  writeFileSync(
    join(folder, 'index.ts'),
    `/** Like {@link Thing}, {@link Thing.part}; unlike {@link gone} and {@link Thing.lost | that}. */
export function known(): void {}
export function bare(): void {}
/** A thing, with a {@link part}. */
export interface Thing {
  /** See {@link nowhere}. */
  part(): void
  silent(): void
}
`,
  )
  const { missing, broken, links } = inspect(folder, new Map([['fixture', 'index.ts']]))
  assert.equal(
    missing.map((line) => line.replace(/ \(.*/, '')),
    ['fixture: bare', 'fixture: Thing.silent'],
  )
  assert.equal(broken, [
    'fixture: known links to gone',
    'fixture: known links to Thing.lost',
    'fixture: Thing.part links to nowhere',
  ])
  assert.is(links, 6)
})

test.run()
