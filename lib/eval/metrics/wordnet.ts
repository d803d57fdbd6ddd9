/** Synonyms from the files of WordNet 3.0 (`index.noun`, `data.noun`, `noun.exc`, …), found as NLTK finds them. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { InputError, invalid } from '../../errors.js'

/** Where Debian's package `wordnet-base` has the files. */
export const WORDNET = '/usr/share/wordnet'

const PARTS = ['noun', 'verb', 'adj', 'adv'] as const
type Part = (typeof PARTS)[number]

/** Endings that make a base form: what is replaced, and by what. */
const ENDINGS: Record<Part, [string, string][]> = {
  noun: ['s:', 'ses:s', 'ves:f', 'xes:x', 'zes:z', 'ches:ch', 'shes:sh', 'men:man', 'ies:y'].map(pair),
  verb: ['s:', 'ies:y', 'es:e', 'es:', 'ed:e', 'ed:', 'ing:e', 'ing:'].map(pair),
  adj: ['er:', 'est:', 'er:e', 'est:e'].map(pair),
  adv: [],
}
function pair(text: string): [string, string] {
  const [old, replacement] = text.split(':') as [string, string]
  return [old, replacement]
}

interface Tables {
  /** Places in the data file, by lemma. */
  index: Map<string, number[]>
  data: Buffer
  /** Base forms of irregular words. */
  exceptions: Map<string, string[]>
}

export class WordNet {
  readonly #tables = new Map<Part, Tables>()
  readonly #known = new Map<string, ReadonlySet<string>>()

  private constructor(private readonly folder: string) {}

  /** @throws InputError where the folder lacks a file of WordNet */
  static open(folder = WORDNET): WordNet {
    const lacking = PARTS.flatMap((part) => [`index.${part}`, `data.${part}`, `${part}.exc`]).find(
      (name) => !existsSync(join(folder, name)),
    )
    if (lacking !== undefined)
      throw invalid(
        folder,
        `the files of WordNet 3.0, such as ${lacking}`,
        new Error('a folder without it'),
        'give the folder with --wordnet; Debian has it as wordnet-base, NLTK as corpora/wordnet',
      )
    return new WordNet(folder)
  }

  /** Every single word that shares a meaning with the word, in any part of speech; letter case as WordNet has it. */
  synonyms(word: string): ReadonlySet<string> {
    const key = word.toLowerCase()
    let found = this.#known.get(key)
    if (!found) {
      const lemmas = PARTS.flatMap((part) => {
        const tables = this.#open(part)
        const places = baseForms(key, part, tables).flatMap((form) => tables.index.get(form)!)
        return places.flatMap((place) => this.#lemmas(part, tables, place))
      })
      found = new Set(lemmas.filter((lemma) => !lemma.includes('_')))
      this.#known.set(key, found)
    }
    return found
  }

  #open(part: Part): Tables {
    let tables = this.#tables.get(part)
    if (tables) return tables
    const lines = (name: string): string[] =>
      readFileSync(join(this.folder, name), 'latin1')
        .split('\n')
        .filter((line) => line !== '' && !line.startsWith(' ')) // the licence is indented
    const index = lines(`index.${part}`).map((line): [string, number[]] => {
      // lemma, part of speech, count of meanings, count of pointers, the pointers, two counts, a place for each meaning
      const fields = line.trim().split(' ')
      return [fields[0]!, fields.slice(fields.length - Number(fields[2])).map(Number)]
    })
    const exceptions = lines(`${part}.exc`).map((line): [string, string[]] => {
      const [word, ...bases] = line.trim().split(' ')
      return [word!, bases]
    })
    tables = {
      index: new Map(index),
      data: readFileSync(join(this.folder, `data.${part}`)),
      exceptions: new Map(exceptions),
    }
    this.#tables.set(part, tables)
    return tables
  }

  /** The words of the meaning at a place of the data file. */
  #lemmas(part: Part, { data }: Tables, place: number): string[] {
    const line = data.toString('latin1', place, data.indexOf(10, place))
    // place, file, kind, count of words (hexadecimal), then each word with its number
    const fields = line.split(' ')
    if (Number(fields[0]) !== place)
      throw new InputError(
        `${join(this.folder, `data.${part}`)}: expected a meaning at byte ${place}; the file is of another version than index.${part}, or damaged.`,
      )
    return Array.from({ length: parseInt(fields[3]!, 16) }, (_, i) => fields[4 + 2 * i]!.replace(/\(.*\)$/, ''))
  }
}

/** The forms of a word that the index has: the word itself, its exceptions, else what is left without an ending. */
function baseForms(word: string, part: Part, { index, exceptions }: Tables): string[] {
  const known = (forms: string[]): string[] => [...new Set(forms)].filter((form) => index.has(form))
  const irregular = exceptions.get(word)
  if (irregular) return known([word, ...irregular])
  const shorter = (forms: string[]): string[] =>
    forms.flatMap((form) =>
      ENDINGS[part].filter(([old]) => form.endsWith(old)).map(([old, to]) => form.slice(0, -old.length) + to),
    )
  let forms = shorter([word])
  let found = known([word, ...forms])
  while (!found.length && forms.length) {
    forms = shorter(forms)
    found = known(forms)
  }
  return found
}
