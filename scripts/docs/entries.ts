// The source files behind the package's entry points: what `exports` in package.json names in dist, as lib has it.
import { readFileSync } from 'node:fs'

const { exports } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  exports: Record<string, string | { default: string }>
}

/** By the name that users import (`mtransllama`, `mtransllama/tensor`, …), the TypeScript file, relative to the root. */
export const entries: ReadonlyMap<string, string> = new Map(
  Object.entries(exports).flatMap(([path, target]): [string, string][] =>
    typeof target === 'object'
      ? [[path.replace('.', 'mtransllama'), target.default.replace('./dist/', 'lib/').replace(/\.js$/, '.ts')]]
      : [],
  ),
)
