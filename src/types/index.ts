// What calls take and give.

export type * from '../recipe-types'
export type * from './device'
export type * from './events'
export type * from './explanation'
export type * from './inspection'
export type * from './plan'
export type * from './work'
