/** `POST /v1/chat/completions`: OpenAI's form of a question, read; and its form of an answer, written. */
import { randomBytes, randomInt } from 'node:crypto'
import { z } from 'zod'
import { checkWith } from '../files/schema.js'
import { choosing, type ChooseOptions } from '../session/choose.js'
import type { Answered } from '../session/model.js'
import { Refusal } from './refusal.js'

const seconds = z.number().min(0).optional()
/** Where a clip is, and which part of it; `url` is a data: URL, `file:ID`, `clip:NAME`, or http(s) where allowed. */
const Video = z.strictObject({ url: z.string().min(1), start: seconds, end: seconds })
const PARTS = {
  text: z.strictObject({ type: z.literal('text'), text: z.string() }),
  video_url: z.strictObject({ type: z.literal('video_url'), video_url: Video }),
  file: z.strictObject({
    type: z.literal('file'),
    file: z.strictObject({
      file_id: z.string().min(1).optional(),
      file_data: z.string().min(1).optional(),
      filename: z.string().optional(),
    }),
  }),
}
const Message = z.strictObject({
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content: z.union([z.string(), z.array(z.looseObject({ type: z.string() }))]),
  name: z.string().optional(),
})
const only = <T extends z.ZodType>(schema: T): z.ZodOptional<z.ZodNullable<T>> => schema.nullish()
const Body = z.strictObject({
  model: z.string().min(1),
  messages: z.array(z.unknown()).min(1),
  stream: only(z.boolean()),
  stream_options: only(
    z.strictObject({ include_usage: z.boolean().optional(), include_obfuscation: z.boolean().optional() }),
  ),
  max_tokens: only(z.int().min(1)),
  max_completion_tokens: only(z.int().min(1)),
  temperature: only(z.number().min(0).max(2)),
  top_p: only(z.number().gt(0).max(1)),
  seed: only(
    z
      .int()
      .min(0)
      .max(2 ** 32 - 1),
  ),
  n: only(z.literal(1)),
  // Clients send these where they change nothing.
  frequency_penalty: only(z.literal(0)),
  presence_penalty: only(z.literal(0)),
  user: only(z.string()),
  metadata: only(z.record(z.string(), z.string())),
  store: only(z.literal(false)),
  // Not OpenAI's: the first as vLLM and others name it.
  repetition_penalty: only(z.number().gt(0)),
  dialogue: only(z.string()),
  frames: only(z.int().min(1).max(64)),
})

/** Where a clip is. */
export type VideoSource = z.infer<typeof Video>

/** A question as a client asked it. */
export interface Asked {
  model: string
  prompt: string
  dialogue: string | undefined
  video: VideoSource
  frames: number | undefined
  maxTokens: number
  choice: ChooseOptions
  stream: boolean
  /** Whether a stream ends with the counts of tokens. */
  usage: boolean
}

/** Where a clip is, as other requests name it. @throws InputError */
export const parseVideo = (value: unknown, where: string): VideoSource => checkWith(Video, value, where)

/** Reads a request. @throws InputError or Refusal with one sentence about what is wrong */
export function parseAsked(value: unknown): Asked {
  const body = checkWith(Body, value ?? {}, 'request')
  const messages = body.messages.map((m, i) => checkWith(Message, m, `messages[${i}]`))
  const [texts, videos]: [string[], VideoSource[]] = [[], []]
  if (messages.at(-1)!.role !== 'user')
    throw new Refusal(400, `messages: the last one must be the user's, and it is of the role ${messages.at(-1)!.role}.`)
  for (const [i, { role, content }] of messages.entries()) {
    if (role === 'assistant' || (role === 'user' && i < messages.length - 1))
      throw new Refusal(
        400,
        'messages: this model answers one question about one clip; send a single user message, with the question and the clip.',
        { param: 'messages' },
      )
    const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : content
    for (const [j, part] of parts.entries()) {
      const where = `messages[${i}].content[${j}]`
      if (!Object.hasOwn(PARTS, part.type))
        throw new Refusal(
          400,
          `${where}: parts are of type text, video_url or file, and this is ${JSON.stringify(part.type)}.`,
        )
      if (part.type === 'text') texts.push(checkWith(PARTS.text, part, where).text)
      else if (part.type === 'video_url') videos.push(checkWith(PARTS.video_url, part, where).video_url)
      else videos.push(fileSource(checkWith(PARTS.file, part, where).file, where))
    }
  }
  if (videos.length !== 1)
    throw new Refusal(400, `messages: exactly one clip is asked about, and there are ${videos.length}.`, {
      param: 'messages',
    })
  const prompt = texts.join('\n')
  if (!prompt.trim()) throw new Refusal(400, 'messages: there is no question.', { param: 'messages' })
  return {
    model: body.model,
    prompt,
    dialogue: body.dialogue ?? undefined,
    video: videos[0]!,
    frames: body.frames ?? undefined,
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? 64,
    choice: choiceOf(body),
    stream: body.stream ?? false,
    usage: body.stream_options?.include_usage ?? false,
  }
}

/**
 * How tokens are chosen. A request that says nothing gets the likeliest, the same each time; one that draws without a
 * seed gets another answer each time. `top_p` alone draws by the scores as they are.
 */
function choiceOf(body: z.infer<typeof Body>): ChooseOptions {
  const topP = body.top_p ?? 1
  const temperature = body.temperature ?? (topP < 1 ? 1 : 0)
  const seed = body.seed ?? (temperature > 0 ? randomInt(2 ** 32) : 0)
  return choosing({ temperature, topP, seed, repetitionPenalty: body.repetition_penalty ?? 1 })
}

function fileSource(
  file: { file_id?: string | undefined; file_data?: string | undefined },
  where: string,
): VideoSource {
  if (file.file_id !== undefined) return { url: `file:${file.file_id}` }
  if (file.file_data !== undefined) return { url: file.file_data }
  throw new Refusal(400, `${where}: a file has file_id, of an upload, or file_data, a data: URL.`)
}

// ------------------------------------------------------------------------------------------------------------- answers

/** The objects of one answer. */
export class Completion {
  readonly #common: { id: string; created: number; model: string }
  constructor(model: string) {
    this.#common = { id: `chatcmpl-${randomBytes(12).toString('hex')}`, created: Math.floor(Date.now() / 1000), model }
  }

  /** The answer as a whole. */
  whole(content: string, end: Answered): object {
    const message = { role: 'assistant', content, refusal: null }
    return {
      ...this.#common,
      object: 'chat.completion',
      choices: [{ index: 0, message, logprobs: null, finish_reason: end.finish }],
      usage: usage(end),
    }
  }

  /** A piece of a stream; the first one names the role, the last one has the reason of the end. */
  piece(delta: { role?: 'assistant'; content?: string }, finish: Answered['finish'] | null = null): object {
    return this.#chunk([{ index: 0, delta, logprobs: null, finish_reason: finish }])
  }

  /** The counts at the end of a stream. */
  usage(end: Answered): object {
    return { ...this.#chunk([]), usage: usage(end) }
  }

  #chunk(choices: object[]): object {
    return { ...this.#common, object: 'chat.completion.chunk', choices }
  }
}

function usage({ visualTokens, promptTokens, answerTokens }: Answered): object {
  const read = visualTokens + promptTokens
  return { prompt_tokens: read, completion_tokens: answerTokens, total_tokens: read + answerTokens }
}
