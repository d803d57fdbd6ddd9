/** `mtransllama serve --model DIR [--adapter NAME=DIR …]`: an HTTP API in OpenAI's form, and a page. */
import { basename, resolve } from 'node:path'
import type { Command } from 'commander'
import { InputError, invalid } from '../errors.js'
import { startServer } from '../server/server.js'
import { KEPT } from '../server/service.js'
import { adapterOutline, outlineOf } from '../session/footprint.js'
import { openModel } from '../session/model.js'
import { TIMEOUT } from '../data/frames.js'
import { askingOf, checkFits, TYPICAL, type Asked } from './plan.js'
import {
  chosen,
  type Computes,
  computes,
  count,
  type FromHub,
  fromHub,
  interruptible,
  located,
  seconds,
} from './common.js'

interface Options extends Computes, FromHub {
  model: string
  name?: string
  adapter: string[]
  host: string
  port: string
  clips?: string
  runs?: string
  queue: string
  uploadLimit: string
  keepUploads: string
  timeout: string
  fetchUrls?: boolean
}

/** `NAME=DIR`; of a folder alone, its name is the adapter's. */
export function parseAdapters(given: readonly string[]): Map<string, string> {
  const adapters = new Map<string, string>()
  for (const text of given) {
    const at = text.indexOf('=')
    const folder = text.slice(at + 1)
    const name = at < 0 ? basename(resolve(folder)) : text.slice(0, at)
    if (!/^[\w.:-]{1,64}$/.test(name) || !folder)
      throw invalid('--adapter', 'NAME=DIR, the name of letters, digits, ., :, _ and -', text)
    if (adapters.has(name)) throw new InputError(`--adapter: the name ${name} is given twice; name each differently.`)
    adapters.set(name, folder)
  }
  return adapters
}

export function register(program: Command): void {
  fromHub(computes(program.command('serve')))
    .description('answer questions over HTTP: an API in the form of OpenAI, and a page to ask and to follow trainings')
    .requiredOption('--model <dir>', 'image model: a folder in the Hugging Face layout, or OWNER/NAME of the hub')
    .option('--name <name>', "the model's name without an adapter; default: that of its folder")
    .option(
      '--adapter <name=dir>',
      'a trained adapter and its name; may be given several times',
      (one: string, all: string[]) => [...all, one],
      [] as string[],
    )
    .option('--host <address>', 'address to listen on; one that others can reach needs MTRANSLLAMA_TOKEN', '127.0.0.1')
    .option('--port <n>', 'port to listen on; 0: any that is free', '8080')
    .option('--clips <dir>', 'folder of clips that the page offers')
    .option('--runs <dir>', 'folder of training runs that the page follows')
    .option('--queue <n>', 'questions that may wait; further ones are answered by 429', '16')
    .option('--upload-limit <MiB>', 'largest clip that is accepted', '512')
    .option('--keep-uploads <minutes>', 'how long a clip stays after its last use', '60')
    .option('--timeout <seconds>', 'longest time to read one clip', String(TIMEOUT))
    .option('--fetch-urls', 'let clients name http(s) URLs of clips, which this machine then fetches')
    .action(async (o: Options) => {
      const adapters = parseAdapters(o.adapter)
      const port = Number(o.port)
      if (!/^\d+$/.test(o.port) || port > 65_535) throw invalid('--port', 'a number from 0 to 65535', o.port)
      const [queue, uploadBytes, uploadSeconds] = [
        count('--queue', o.queue),
        2 ** 20 * count('--upload-limit', o.uploadLimit),
        60 * count('--keep-uploads', o.keepUploads),
      ]
      const { MTRANSLLAMA_TOKEN: token } = process.env
      const timeout = seconds('--timeout', o.timeout)
      const { graphs, say, ...where } = chosen(o)
      const folder = await located(o.model, o)
      await checkFits(await serving(folder, [...adapters.values()]), where)
      const { signal, done } = interruptible()
      const model = await openModel(folder, where)
      try {
        say(model.checkpoint)
        const name = o.name ?? basename(resolve(o.model))
        const server = await startServer(model, {
          name,
          adapters,
          host: o.host,
          port,
          token: token || undefined,
          clips: o.clips,
          runs: o.runs,
          queue,
          uploadBytes,
          uploadSeconds,
          fetchUrls: o.fetchUrls,
          timeout,
          graphs,
        })
        console.log(`serving ${[name, ...adapters.keys()].join(', ')} at ${server.url}/`)
        if (!signal.aborted) await new Promise((stop) => signal.addEventListener('abort', stop, { once: true }))
        await server.close()
      } finally {
        done()
        model.dispose()
      }
    })
}

/** A question to the server as its footprint knows it: a long one, while features are kept. */
async function serving(model: string, folders: readonly string[]): Promise<Asked> {
  const outline = await outlineOf(model)
  const adapters = await Promise.all(folders.map(adapterOutline))
  const frames = Math.max(...(adapters.length ? adapters.map(({ config }) => config.frames) : [4]))
  return askingOf(outline, { ...TYPICAL, promptTokens: 128, answerTokens: 64, frames, adapters, kept: KEPT }, 'serve')
}
