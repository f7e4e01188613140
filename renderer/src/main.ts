/** Entry of the page: theme first (no flash), then the shell. */
import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { app } from './state/app.svelte.ts';

app.applyTheme();
mount(App, { target: document.getElementById('app')! });
void app.start();
