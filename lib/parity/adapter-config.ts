/** The configuration of an adapter as golden cases write it. */
import { parseAdapterConfig, type AdapterConfig } from '../adapter/config.js'

/**
 * The `config` of a golden case: snake case, `t_max` for temporal.maxFrames, and a `train` part that is not the
 * adapter's.
 */
export function adapterConfigFromGolden(config: Record<string, unknown>, frames?: number): AdapterConfig {
  const { train: _, t_max: maxFrames, ...rest } = config
  const adapter = camelCase(rest) as Record<string, unknown>
  if (maxFrames !== undefined) adapter.temporal = { ...(adapter.temporal as object | undefined), maxFrames }
  if (frames !== undefined) adapter.frames = frames
  return parseAdapterConfig(adapter, 'golden configuration')
}

function camelCase(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
      camelCase(inner),
    ]),
  )
}
