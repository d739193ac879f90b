import { FlowtuneError } from '../errors'
import type { Batch } from './context'
import { FlowMatchingPipeline } from './flow-matching-pipeline'
import { Flux2Adapter, type Flux2AdapterOptions } from './flux2-adapter'
import type { ModelAdapter } from './model-adapter'
import type { FlowMatchingPipelineOptions } from './options'

/**
 * Adapters by name, with the options each takes. Adapters of one's own join it by declaration merging:
 *
 * ```ts
 * declare module 'flowtune' {
 *   interface AdapterRegistry {
 *     calm: { adapter: Calm; options: { strength: number } }
 *   }
 * }
 * registerAdapter('calm', (options) => new Calm(options))
 * createPipeline('calm', { strength: 0.01 })
 * ```
 */
export interface AdapterRegistry {
  /** FLUX.2, built in. */
  flux2: {
    /** What is made. */
    adapter: Flux2Adapter
    /** Of what. */
    options: Flux2AdapterOptions
  }
}

/** Names that {@link createAdapter} knows. */
export type AdapterName = keyof AdapterRegistry

/** Makes an adapter of its options. */
export type AdapterFactory<Name extends AdapterName> = (
  options: AdapterRegistry[Name]['options'],
) => AdapterRegistry[Name]['adapter']

const factories = new Map<string, (options: never) => unknown>()

/** Makes an adapter known by name to {@link createAdapter} and {@link createPipeline}. */
export function registerAdapter<Name extends AdapterName>(name: Name, factory: AdapterFactory<Name>): void {
  factories.set(name, factory)
}

registerAdapter('flux2', (options) => new Flux2Adapter(options))

/** Options of an adapter, which may be left out where none of them is required; then what else is taken. */
export type AdapterArguments<Name extends AdapterName, Rest extends unknown[] = []> =
  Record<never, never> extends AdapterRegistry[Name]['options']
    ? [options?: AdapterRegistry[Name]['options'], ...rest: Partial<Rest>]
    : [options: AdapterRegistry[Name]['options'], ...rest: Partial<Rest>]

/**
 * An adapter by name. After NeMo Automodel's `create_adapter`.
 *
 * @throws FlowtuneError `RECIPE_INVALID` for a name that nobody registered
 */
export function createAdapter<Name extends AdapterName>(
  name: Name,
  ...[options = {}]: AdapterArguments<Name>
): AdapterRegistry[Name]['adapter'] {
  const factory = factories.get(name) as AdapterFactory<Name> | undefined
  if (factory) return factory(options)
  const known = [...factories.keys()].join(', ')
  throw new FlowtuneError(
    'RECIPE_INVALID',
    `adapter must be one of ${known}, got "${name}"; registerAdapter adds others`,
  )
}

/** The pipeline of an adapter: with what it gives to the model, the batch it takes, and the model it runs. */
export type PipelineOf<A> =
  A extends ModelAdapter<infer Inputs, infer B extends Batch, infer Model>
    ? FlowMatchingPipeline<Inputs, B, Model>
    : never

/**
 * A pipeline with an adapter by name. After NeMo Automodel's `create_pipeline`.
 *
 * The arguments after the name are the options of {@link createAdapter} and those of {@link FlowMatchingPipeline}.
 */
export function createPipeline<Name extends AdapterName>(
  name: Name,
  ...[adapterOptions, options]: AdapterArguments<Name, [options: FlowMatchingPipelineOptions]>
): PipelineOf<AdapterRegistry[Name]['adapter']> {
  const adapter = createAdapter(name, ...([adapterOptions] as AdapterArguments<Name>)) as ModelAdapter
  return new FlowMatchingPipeline(adapter, options) as PipelineOf<AdapterRegistry[Name]['adapter']>
}
