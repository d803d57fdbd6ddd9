/**
 * The words of COCO's caption metrics: Penn Treebank tokens in lower case, punctuation dropped. Exact ones come from
 * the jar of Stanford CoreNLP 3.4.1; without it, from a tokenizer of our own that covers plain captions, under another
 * name.
 */
import { execFile } from 'node:child_process'
import { rm, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { InputError, show } from '../../errors.js'

/**
 * Tokens that pycocoevalcap drops. Its brackets are in upper case, so that those of lower-case text, `-lrb-`, stay.
 */
const DROPPED = new Set(
  ["''", "'", '``', '`', '-LRB-', '-RRB-', '-LCB-', '-RCB-', '.', '?', '!', ',', ':', '-', '--', '...', ';'].concat(
    '\\',
  ),
)

/** Texts as tokens joined by single spaces. */
export interface Tokenized {
  texts: string[]
  /** What a metric's name gains where the tokens are not the original's: `/own-tokens`, or nothing. */
  suffix: string
}

/**
 * Tokenises texts.
 *
 * @param jar Stanford CoreNLP 3.4.1; absent: our own tokenizer
 * @param java the command that runs it
 */
export async function cocoTokens(texts: readonly string[], jar?: string, java = 'java'): Promise<Tokenized> {
  const lines = texts.map((text) => text.replace(/\s+/g, ' '))
  const kept = (line: string): string =>
    line
      .trimEnd()
      .split(' ')
      .filter((token) => !DROPPED.has(token))
      .join(' ')
  if (jar === undefined) return { texts: lines.map((line) => kept(ownTokens(line).join(' '))), suffix: '/own-tokens' }
  const folder = await mkdtemp(join(tmpdir(), 'mtransllama-tokens-'))
  try {
    const file = join(folder, 'texts.txt')
    await writeFile(file, `${lines.join('\n')}\n`)
    const { stdout } = await promisify(execFile)(
      java,
      ['-cp', jar, 'edu.stanford.nlp.process.PTBTokenizer', '-preserveLines', '-lowerCase', file],
      { maxBuffer: 1 << 30 },
    )
    const out = stdout.split('\n').slice(0, lines.length)
    if (out.length !== lines.length)
      throw new InputError(`${jar}: expected ${lines.length} lines of tokens, but got ${out.length}.`)
    return { texts: out.map(kept), suffix: '' }
  } catch (error) {
    if (error instanceof InputError) throw error
    throw new InputError(`${jar}: its tokenizer could not be run with ${java}: ${show(error)}.`, { cause: error })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** What a token is: the marks made before, numbers, ellipses and dashes, contractions, words, any other sign. */
const TOKEN = new RegExp(
  [
    "-[lr]rb-|''|``",
    '\\d+(?:[.,:/]\\d+)+',
    '\\.\\.\\.|--',
    "[\\p{L}\\p{N}]+?(?=n't\\b)|n't\\b",
    "'(?:s|re|ve|ll|d|m)\\b",
    '[\\p{L}\\p{N}]+(?:-[\\p{L}\\p{N}]+)*',
    '\\S',
  ].join('|'),
  'gu',
)

/** Penn Treebank tokens of a plain English line, in lower case. */
function ownTokens(line: string): string[] {
  const marked = line
    .toLowerCase()
    .replace(/["“”]/g, " '' ")
    .replace(/[‘’]/g, "'")
    .replaceAll('(', ' -lrb- ')
    .replaceAll(')', ' -rrb- ')
    .replace(/\b(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me))\b/g, (_, ...parts: unknown[]) =>
      parts.slice(0, 8).filter(Boolean).join(' '),
    )
  return marked.match(TOKEN) ?? []
}
