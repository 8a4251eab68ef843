//! The promises of img2text, each tested with the real parts: a file per promise.

mod backup;
mod charges;
mod history;
mod model;
mod moving_in;
mod purchases;
mod quota_commands;
mod reservations;
mod resets;
mod support;

mod a_caller_who_goes_away;
mod any_client;
mod deployment;
mod durability;
mod full_disk;
mod hostile_clients;
mod hostile_files;
mod killed_parts;
mod killing_run;
mod many_pages;
mod messages_in_flight;
mod monitoring;
mod nobody_overspends;
mod power_cut;
mod redis_over_tls;
mod refusals;
mod sentinel;
mod steady_memory;
mod stopping;
mod the_documents;
mod the_main_job;
mod the_whole_page;
mod traces;
mod under_attack;
mod who_may_call;
