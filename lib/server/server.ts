/**
 * The HTTP server over one open model and its adapters: OpenAI's API for questions about clips, and a page for people.
 * Every request is bounded: in size, in time, and in how many may wait.
 */
import { isIP } from 'node:net'
import { InputError } from '../errors.js'
import type { Model } from '../session/model.js'
import { readPage } from './page.js'
import { about } from './routes/about.js'
import { chat } from './routes/chat.js'
import { files } from './routes/files.js'
import { folders } from './routes/folders.js'
import { loopback, Service, type ServerOptions } from './service.js'

export interface Server {
  /** With the port that was taken. */
  url: string
  /** Ends what is being answered, closes connections and deletes uploads. The model stays open. */
  close(): Promise<void>
}

/**
 * Serves an open model.
 *
 * @throws InputError for an adapter that cannot be used, a port that is taken, and an address that others can reach
 *   without a token
 */
export async function startServer(model: Model, options: ServerOptions): Promise<Server> {
  const { host = '127.0.0.1', port = 8080, token } = options
  if (!loopback(host) && !token)
    throw new InputError(
      `host: others can reach ${host}, so a token is needed; set MTRANSLLAMA_TOKEN to a long random text, which clients send as their API key, or listen on 127.0.0.1.`,
    )
  if (token !== undefined && token.length < 8)
    throw new InputError('token: expected at least 8 characters, so that it cannot be guessed.')
  const service = await Service.open(model, options)
  try {
    for (const add of [about, files, chat, folders]) add(service)
    await page(service)
    await service.app.listen({ host, port, listenTextResolver: () => '' })
  } catch (error) {
    await service.close()
    throw cannotListen(error, host, port)
  }
  const { port: taken } = service.app.server.address() as { port: number }
  const shown = isIP(host) === 6 ? `[${host}]` : host
  return { url: `http://${shown}:${taken}`, close: () => service.close() }
}

function cannotListen(error: unknown, host: string, port: number): unknown {
  const { code } = error as NodeJS.ErrnoException
  const reasons: Record<string, string> = {
    EADDRINUSE: 'another program listens there; choose another port, or 0 for any that is free',
    EACCES: 'there is no permission to listen there; choose a port above 1023',
    EADDRNOTAVAIL: 'this machine has no such address; use 127.0.0.1, or 0.0.0.0 for all of its own',
    ENOTFOUND: 'there is no such host; use 127.0.0.1, or 0.0.0.0 for all addresses of this machine',
  }
  const reason = code === undefined ? undefined : reasons[code]
  return reason ? new InputError(`port: cannot listen on ${host}:${port}: ${reason}.`, { cause: error }) : error
}

async function page(service: Service): Promise<void> {
  for (const { path, type, content } of await readPage())
    service.app.get(path, (_, reply) => reply.type(type).header('cache-control', 'no-cache').send(content))
}
