/** A wrapper of @huggingface/tokenizers, which reads the tokenizer.json of a Hugging Face folder. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { InputError, invalid, show } from '../errors.js'
import { readJsonObject } from '../files/json.js'

/** How a text becomes ids. */
export interface EncodeOptions {
  /** Whether the tokenizer's own special tokens are added, [CLS] … [SEP] or a BOS. Default: true. */
  addSpecialTokens?: boolean
  /** Most ids, special tokens included. */
  maxTokens?: number
  /** Which end of a text that is too long is cut off. Default: right. Special tokens stay. */
  truncation?: 'left' | 'right'
}

/** Turns ids into text as they come. */
export interface TextStream {
  /** The text that this id completes; empty while a character is not whole. */
  push(id: number): string
  /** The text that was still held back. */
  end(): string
}

/** A tokenizer of a Hugging Face folder. */
export interface Tokenizer {
  readonly folder: string
  /** One more than the largest id, added tokens included. */
  readonly vocabSize: number
  /** The largest id of the vocabulary itself: of tokens that any text can contain. */
  readonly largestTextId: number
  readonly bosId: number | null
  readonly eosId: number | null
  readonly padId: number | null
  readonly unkId: number | null
  /**
   * Whether a word in the middle of a text differs from the same word at its beginning by a leading space (GPT-2's
   * way).
   */
  readonly wordsCarrySpaces: boolean
  /** The ids of a text. */
  encode(text: string, options?: EncodeOptions): number[]
  /** The text of ids, without special tokens and unknown ids. */
  decode(ids: readonly number[]): string
  /** A decoder that takes ids one by one and gives whole characters. */
  stream(): TextStream
  /** The token as it is written in the vocabulary, for showing. */
  token(id: number): string | undefined
  /** The id of a token as it is written in the vocabulary; undefined where there is none. */
  idOf(token: string): number | undefined
}

/** Reads tokenizer.json, and tokenizer_config.json and special_tokens_map.json where they are. */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const file = join(folder, 'tokenizer.json')
  if (!existsSync(file)) {
    const old = ['tokenizer.model', 'vocab.txt', 'vocab.json', 'spiece.model'].filter((name) =>
      existsSync(join(folder, name)),
    )
    const advice =
      old.length > 0
        ? `there is ${old[0]}; in Python, AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder) writes tokenizer.json from it`
        : 'a Hugging Face tokenizer folder has one: download the whole model'
    throw new InputError(`${file}: no such file; ${advice}.`)
  }
  const optional = async (name: string) => (existsSync(join(folder, name)) ? readJsonObject(join(folder, name)) : {})
  const config = { ...(await optional('special_tokens_map.json')), ...(await optional('tokenizer_config.json')) }
  return makeTokenizer(await readJsonObject(file), config, folder)
}

/** The same from the files' contents. */
export function makeTokenizer(
  json: Record<string, unknown>,
  config: Record<string, unknown> = {},
  folder = 'tokenizer',
): Tokenizer {
  const where = join(folder, 'tokenizer.json')
  const library = construct(json, config, where)
  const vocabulary = library.get_vocab(true)
  const ids = [...vocabulary].flatMap(([token, id]) => (token === undefined ? [] : [id]))
  const addedIds = library.get_added_tokens_decoder()
  const idOf = (token: string) => library.token_to_id(token)
  const named = (key: string): number | null => {
    const value = config[key] as string | { content?: unknown } | null | undefined
    const token = typeof value === 'object' && value !== null ? value.content : value
    if (token == null) return null
    const id = typeof token === 'string' ? idOf(token) : undefined
    if (id === undefined) throw invalid(`${folder}: ${key}`, 'a token of this tokenizer', token)
    return id
  }
  const unknownToken = (json.model as { unk_token?: string | null }).unk_token
  const clean = (json.decoder as { type?: string } | null)?.type === 'WordPiece'
  const known = (id: number) => library.id_to_token(id) !== undefined

  const encode = (text: string, addSpecialTokens: boolean): number[] => {
    const found = library.encode(text, { add_special_tokens: addSpecialTokens }).ids as (number | undefined)[]
    if (found.includes(undefined))
      throw new InputError(
        `${where}: this tokenizer has no token for a part of ${show(text)}, and none for the unknown.`,
      )
    return found as number[]
  }

  const tokenizer: Tokenizer = {
    folder,
    vocabSize: ids.reduce((most, id) => Math.max(most, id), -1) + 1,
    largestTextId: ids.reduce((most, id) => (addedIds.has(id) ? most : Math.max(most, id)), -1),
    bosId: named('bos_token'),
    eosId: named('eos_token'),
    padId: named('pad_token'),
    unkId: named('unk_token') ?? (unknownToken != null ? (idOf(unknownToken) ?? null) : null),
    wordsCarrySpaces: carriesSpaces(json.pre_tokenizer),
    encode(text, { addSpecialTokens = true, maxTokens = Infinity, truncation = 'right' } = {}) {
      const framed = encode(text, addSpecialTokens)
      if (framed.length <= maxTokens) return framed
      const bare = addSpecialTokens ? encode(text, false) : framed
      return cut(framed, bare, maxTokens, truncation)
    },
    decode(ids) {
      const list = ids.filter(known)
      return list.length === 0
        ? ''
        : library.decode(list, { skip_special_tokens: true, clean_up_tokenization_spaces: clean })
    },
    stream: () => streamOf(tokenizer),
    token: (id) => library.id_to_token(id),
    idOf,
  }
  return tokenizer
}

function construct(json: Record<string, unknown>, config: Record<string, unknown>, where: string): Library {
  const { model, added_tokens: added = [] } = json as { model?: { vocab?: unknown }; added_tokens?: unknown }
  if (typeof model !== 'object' || model === null || typeof model.vocab !== 'object' || model.vocab === null) {
    throw invalid(`${where}: model`, 'an object with a vocab', model)
  }
  if (!Array.isArray(added)) throw invalid(`${where}: added_tokens`, 'a list', added)
  try {
    return new Library(
      { decoder: null, post_processor: null, pre_tokenizer: null, normalizer: null, ...json, added_tokens: added },
      config,
    )
  } catch (error) {
    throw new InputError(`${where}: cannot be used as a tokenizer: ${(error as Error).message.replace(/\s+/g, ' ')}.`, {
      cause: error,
    })
  }
}

/** Cuts the text inside its frame: what stands around `bare` in `framed` stays. */
function cut(framed: number[], bare: number[], maxTokens: number, side: 'left' | 'right'): number[] {
  const extra = framed.length - bare.length
  let before = 0
  while (before < extra && !bare.every((id, i) => framed[before + i] === id)) before++
  const room = maxTokens - extra
  if (room < 0) throw invalid('maxTokens', `at least ${extra}, the tokens that frame every text`, maxTokens)
  const kept = side === 'left' ? bare.slice(bare.length - room) : bare.slice(0, room)
  return [...framed.slice(0, before), ...kept, ...framed.slice(before + bare.length)]
}

function carriesSpaces(pre: unknown): boolean {
  const step = pre as { type?: string; add_prefix_space?: boolean; pretokenizers?: unknown[] } | null
  if (step?.type === 'Sequence') return (step.pretokenizers ?? []).some(carriesSpaces)
  return step?.type === 'ByteLevel' && step.add_prefix_space !== true
}

/**
 * Decodes all ids again at each step, since a token can change the text of the one before, and returns what was added.
 */
function streamOf(tokenizer: Tokenizer): TextStream {
  const ids: number[] = []
  let given = ''
  const advance = (text: string) => {
    const piece = text.slice(given.length)
    given = text
    return piece
  }
  return {
    push(id) {
      ids.push(id)
      const text = tokenizer.decode(ids)
      return text.endsWith('\uFFFD') || text.length <= given.length ? '' : advance(text)
    },
    end: () => advance(tokenizer.decode(ids)),
  }
}

// -------------------------------------------------------------------------------------------------------------- checks

/**
 * Refuses a tokenizer that belongs to another model: every id that text can give, and each special id that will be
 * used, must have a row in the embedding. Added tokens that no text gives ([DEC]) may lie past it.
 */
export function checkTokenizer(
  tokenizer: Tokenizer,
  rows: number,
  name: string,
  specials: Record<string, number | null> = {},
): void {
  if (tokenizer.largestTextId >= rows) {
    throw new InputError(
      `${tokenizer.folder}: the ${name} tokenizer has ids up to ${tokenizer.largestTextId}, but the embedding has ${rows} rows; ` +
        'the tokenizer and the weights belong to different models.',
    )
  }
  const used = { pad_token: tokenizer.padId, unk_token: tokenizer.unkId, ...specials }
  for (const [key, id] of Object.entries(used)) {
    if (id !== null && (id < 0 || id >= rows)) {
      throw new InputError(
        `${tokenizer.folder}: the ${key} of the ${name} tokenizer has the id ${id}, but the embedding has ${rows} rows (ids 0 to ${rows - 1}).`,
      )
    }
  }
}

/**
 * Refuses ids without a row in the embedding; `name` says which text they come from, `tokenizer` how they are written.
 */
export function checkIds(
  ids: readonly number[],
  rows: number,
  name: string,
  tokenizer?: Pick<Tokenizer, 'token'>,
): void {
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= rows)
  if (bad === undefined) return
  const token = tokenizer?.token(bad)
  throw new InputError(
    `${name}: the token id ${bad}${token === undefined ? '' : ` (${token})`} is past the embedding, which has ${rows} rows (ids 0 to ${rows - 1}).`,
  )
}
