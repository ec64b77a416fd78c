// Compiled, never run: what `require` finds, in Node.js and in bundlers.

import { expectTypeOf } from 'expect-type';

import WSMsgBroker = require('wsmsgbroker');
import Browser = require('wsmsgbroker/browser');

expectTypeOf(new WSMsgBroker('a', 'ws://localhost')).toEqualTypeOf<WSMsgBroker>();
expectTypeOf(new Browser('a', 'ws://localhost')).toEqualTypeOf<Browser>();
expectTypeOf<Browser.ClientOptions>().toHaveProperty('token');

// @ts-expect-error the class is what is required, not a member of it
new WSMsgBroker.default('a', 'ws://localhost');
// @ts-expect-error the class is what is required, not a member of it
new Browser.default('a', 'ws://localhost');
