//! Owns the flags that set what the configuration sets, and `check-config`, which shows what came of them.
//! Must not know: what is done with a setting.

use std::net::SocketAddr;
use std::path::PathBuf;

use binaryrepo::config::{Config, ENV_ADMIN_PASSWORD_FILE, ENV_ADMIN_USER, Setting, Sources, Warning};

use super::connect;
use super::error::CliError;
use super::output;

/// Where configuration and data lie: for every command.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Configuration file (TOML); none is needed [env: BINARYREPO_CONFIG]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Common options")]
    config: Option<PathBuf>,

    /// Directory with content, metadata and the administrator's token
    #[arg(long, value_name = "DIR", global = true, help_heading = "Common options")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The configuration that commands share with the server they talk to.
    pub fn load(&self) -> Result<Config, CliError> {
        self.load_with(Vec::new(), &[])
    }

    fn load_with(&self, mut flags: Vec<Setting>, env: &[(&str, Option<String>)]) -> Result<Config, CliError> {
        if let Some(dir) = &self.data_dir {
            flags.push(Setting::new("--data-dir", "storage", "path", dir.display().to_string()));
        }
        let mut sources = Sources::of_process(self.config.clone(), flags);
        for (name, value) in env {
            sources.env.extend(value.clone().map(|value| ((*name).to_owned(), value)));
        }
        Ok(Config::load(&sources)?)
    }
}

/// Flags over environment (BINARYREPO_SERVER__LISTEN=...) over file over defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo serve --listen 127.0.0.1:5000 --data-dir /srv/binaryrepo
  binaryrepo serve --listen 0.0.0.0:8081 --open-access     everyone who reaches it may pull
  binaryrepo serve --set storage.max_size=500GiB --set server.base_domains=reg.example.com
  BINARYREPO_STORAGE__MAX_SIZE=50% binaryrepo serve")]
pub struct SettingFlags {
    /// Address and port to listen on [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// Allow everyone who reaches the server to pull
    #[arg(long)]
    open_access: bool,

    /// URL under which clients know the server, where a proxy hides it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,

    /// Name of the first administrator, who is made where there is nobody yet [env: BINARYREPO_ADMIN_USER]
    #[arg(long, value_name = "NAME")]
    admin_user: Option<String>,

    /// File with the first administrator's password [env: BINARYREPO_ADMIN_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    admin_password_file: Option<PathBuf>,

    /// auto, text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// Which lines are logged: info, or warn,binaryrepo=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Any setting of the configuration file; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = parse_setting)]
    settings: Vec<Setting>,
}

fn parse_setting(text: &str) -> Result<Setting, String> {
    let refuse = || "expected SECTION.KEY=VALUE, such as storage.max_size=500GiB".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(refuse)?;
    let (section, key) = name.split_once('.').ok_or_else(refuse)?;
    Ok(Setting::new(&format!("--set {name}"), section, key, value))
}

impl SettingFlags {
    pub fn load(&self, place: &Place) -> Result<Config, CliError> {
        let mut flags = self.settings.clone();
        let mut set = |flag: &str, section: &str, key: &str, value: Option<String>| {
            flags.extend(value.map(|value| Setting::new(flag, section, key, value)));
        };
        set("--listen", "server", "listen", self.listen.map(|address| address.to_string()));
        set("--open-access", "server", "open_access", self.open_access.then(|| "true".to_owned()));
        set("--public-url", "server", "public_url", self.public_url.clone());
        set("--log-format", "log", "format", self.log_format.clone());
        set("--log-level", "log", "level", self.log_level.clone());
        let file = self.admin_password_file.as_ref().map(|file| file.display().to_string());
        place.load_with(flags, &[(ENV_ADMIN_USER, self.admin_user.clone()), (ENV_ADMIN_PASSWORD_FILE, file)])
    }
}

/// `check-config`: what is in force on stdout, what is doubtful on stderr.
pub fn check(place: &Place, flags: &SettingFlags) -> Result<(), CliError> {
    let config = flags.load(place)?;
    output::text_block(&config.effective())?;
    let inside = connect::inside(&config);
    if let Ok(inside) = &inside {
        config.check_serving(inside.users)?;
        config.check_repositories(&inside.repositories)?;
    }
    for warning in config.warnings() {
        warn(&warning);
    }
    match inside {
        Ok(inside) if inside.users => warn(&config.warning_with_users()),
        Ok(_) => {}
        // Nor whether it may listen beyond loopback, and which repositories would be made: the start will say.
        Err(error) => eprintln!("warning: what the data directory holds cannot be told: {}", error.message()),
    }
    eprintln!("the configuration can be used");
    Ok(())
}

fn warn(warning: &Warning) {
    eprintln!("warning: {}\nhint: {}", warning.message, warning.hint);
}
