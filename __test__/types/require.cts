// Compiled, never run: the exports for `require`, in Node.js and in bundlers.

import { expectTypeOf } from 'expect-type';

import WSMsgBroker = require('wsmsgbroker');
import Browser = require('wsmsgbroker/browser');

expectTypeOf(new WSMsgBroker('a', 'ws://localhost')).toEqualTypeOf<WSMsgBroker>();
expectTypeOf(new Browser('a', 'ws://localhost')).toEqualTypeOf<Browser>();
expectTypeOf<Browser.ClientOptions>().toHaveProperty('token');

// @ts-expect-error require returns the class
new WSMsgBroker.default('a', 'ws://localhost');
// @ts-expect-error require returns the class
new Browser.default('a', 'ws://localhost');
